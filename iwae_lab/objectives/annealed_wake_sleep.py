"""Wake updates at the end points of annealed importance sampling."""

import torch
from torch import Tensor

from iwae_lab.bounds import normalized_weights
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective
from iwae_lab.objectives.hamiltonian import Chains, Point

__all__ = ["AnnealedWakeSleep"]

ACCEPTANCE = 0.8  # the target


class AnnealedWakeSleep(Objective):
    """θ: Σ_i w̃_i ∇_θ log p(x, z_i), φ: Σ_i w̃_i ∇_φ log q(z_i | x), at the end points z_i of k annealed chains.

    Each chain goes from q through `temperatures` evenly spaced inverse temperatures, 0 to 1, with a Hamiltonian move,
    accepted or not, at each but the first; w̃ are the normalised AIS weights (Neal 2001). θ is that of Ding & Freedman
    2019 (arXiv 1906.04904), whose φ ascends the ELBO; φ here is the wake update of Bornschein & Bengio 2015. No graph
    leads through the chains, so memory is that of `rws`, which it is with temperatures=1. Both estimators are biased
    for finite chains: the more temperatures or samples, the nearer θ's is to ∇ log p(x).

    `Estimate.log_w` are the AIS weights, so that the bound reported in training is theirs, above L_k. The step size
    is one for all moves; it follows the acceptance of past minibatches, which leaves E w = p(x).
    """

    step: Tensor

    def __init__(self, temperatures: int = 5) -> None:
        super().__init__()
        require("temperatures", temperatures, temperatures >= 1, "an integer of at least 1")
        self.temperatures = temperatures
        self.register_buffer("step", torch.tensor(0.5))

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        chains = Chains(model, x, graph=False)
        point = chains.start(k, self.noise)
        moves = self.temperatures - 1
        log_w = torch.zeros_like(point.log_w) if moves else point.log_w
        accepted = []
        for t in range(moves):
            log_w = log_w + point.log_w / moves
            point, taken = self._move(chains, point, (t + 1) / moves)
            accepted.append(taken.to(self.step).mean())
        if accepted:
            rate = torch.stack(accepted).mean()
            self.step.copy_((self.step * torch.exp(0.1 * (rate - ACCEPTANCE))).clamp(max=1.5))
        draw = model.draw(x, k, "score", lambda q, level, shape: point.noise[level])
        gain = (normalized_weights(log_w) * (draw.log_p + draw.log_q)).sum(0).mean()
        return Estimate(-gain, log_w)

    def _move(self, chains: Chains, point: Point, beta: float) -> tuple[Point, Tensor]:
        """A move that leaves π_β invariant, and which chains [k, batch] accepted it."""
        there, _, work = chains.move(point, chains.momentum(point, self.noise), beta, self.step.to(point.log_w))
        gain = beta * (there.log_w - point.log_w) - work
        taken = torch.rand_like(gain).log() < gain  # a NaN gain is rejected

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(taken.view(taken.shape + (1,) * (new.dim() - 2)), new, old)

        moved = Point(
            [choose(*pair) for pair in zip(there.noise, point.noise, strict=True)],
            choose(there.log_w, point.log_w),
            [choose(*pair) for pair in zip(there.slopes, point.slopes, strict=True)],
        )
        return moved, taken
