"""How to anneal from an initial distribution to the posterior. Without torch, since the configuration checks it."""

import math
from dataclasses import dataclass

from iwae_lab.console.errors import require, require_one_of

__all__ = ["SCHEDULES", "STARTS", "Annealing"]

STARTS, SCHEDULES = ("q", "prior"), ("sigmoid", "linear")


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling. Raises `UserError` for values out of range.

    chains: per image. temperatures: steps from the start to the posterior; the papers take 10,000. leapfrog_steps: per
    Hamiltonian move. start: see `iwae_lab.evaluation.ais`. schedule: of β from 0 to 1, "linear" or "sigmoid", which is
    denser at both ends (Wu et al. 2017, with their δ = 4).
    """

    chains: int = 16
    temperatures: int = 1000
    leapfrog_steps: int = 5
    start: str = "q"
    schedule: str = "sigmoid"

    def __post_init__(self) -> None:
        for key in ("chains", "temperatures", "leapfrog_steps"):
            value = getattr(self, key)
            require(key, value, value >= 1, "an integer of at least 1")
        require_one_of("start", self.start, STARTS)
        require_one_of("schedule", self.schedule, SCHEDULES)

    def betas(self) -> list[float]:
        """β from 0 to 1, one more than `temperatures`."""
        even = [i / self.temperatures for i in range(self.temperatures + 1)]
        if self.schedule == "linear":
            return even
        first, *inner, last = (1 / (1 + math.exp(4 - 8 * share)) for share in even)
        return [0.0, *((value - first) / (last - first) for value in inner), 1.0]
