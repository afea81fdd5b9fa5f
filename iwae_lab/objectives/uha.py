"""Uncorrected Hamiltonian annealing: importance weights of chains, differentiated through."""

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted
from iwae_lab.objectives.hamiltonian import Chains

__all__ = ["UHA"]


class UHA(ImportanceWeighted):
    """E[log (1/k) Σ_i w_i] of chains from q that `steps` Hamiltonian moves take towards the posterior.

    (Geffner & Domke 2021, arXiv 2107.04150; Zhang et al. 2021, arXiv 2107.10211; Thin et al. 2021, arXiv 2106.15921.)
    w = w(z_K) N(ε_K) / N(ε_0) · Π_t N(v̂_t) / N(v_{t−1}), where w(z) = p(x, z) / q(z | x), ε_t is the noise from which q
    draws z_t, v_{t−1} and v̂_t are the momentum before and after move t, and v_t = η v̂_t + √(1−η²) ξ. The papers move z
    by leapfrog steps; here `iwae_lab.objectives.hamiltonian` moves ε. There is no acceptance step, so w is
    differentiable; E w = p(x), so this is a lower bound of log p(x), and its gradient in θ and φ, through the chains,
    is unbiased. steps=0 is IWAE.

    steps: moves, each another evaluation of the model and of its second derivatives.
    step_size: of every move at the beginning, in radians. Where it is too large for the curvature of log w, moves are
    unstable and training diverges.
    persistence: η at the beginning; 0 is Langevin dynamics, and stays.
    learned: whether step sizes, η and the inverse temperatures, which begin evenly spaced between 0 and 1, ascend too.

    `Estimate.log_w` are the weights of the chains, so that the bound reported in training is this objective's own,
    above L_k. What is measured on the validation and test sets is of q alone, as for every other objective.
    """

    couplable = True

    def __init__(self, steps: int = 5, step_size: float = 0.1, persistence: float = 0.9, learned: bool = True) -> None:
        super().__init__()
        require("steps", steps, steps >= 0, "an integer of at least 0")
        require("step_size", step_size, 0 < step_size < 1, "a number between 0 and 1")
        require("persistence", persistence, 0 <= persistence < 1, "a number from 0 to below 1")
        self.steps = steps
        learned = learned and steps > 0
        self.step_logits = nn.Parameter(torch.full((steps,), step_size).logit(), requires_grad=learned)
        self.path_logits = nn.Parameter(torch.zeros(steps + 1), requires_grad=learned)
        self.persistence_logit = None
        if persistence:
            self.persistence_logit = nn.Parameter(
                torch.tensor(persistence).logit(), requires_grad=learned and steps > 1
            )

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        chains = Chains(model, x, graph=True)
        point = chains.start(k, self.noise)
        angles = self.step_logits.sigmoid().to(point.log_w)
        betas = self.path_logits.softmax(0).cumsum(0).to(point.log_w)
        kept = self.persistence_logit.sigmoid().to(point.log_w) if self.persistence_logit is not None else None
        work = torch.zeros_like(point.log_w)
        momentum: list[Tensor] = []
        for t in range(self.steps):
            fresh = chains.momentum(point, self.noise)
            if t and kept is not None:
                fresh = [kept * v + (1 - kept.square()).sqrt() * new for v, new in zip(momentum, fresh, strict=True)]
            point, momentum, done = chains.move(point, fresh, betas[t], angles[t])
            work = work + done
        log_w = point.log_w - work
        return Estimate(-self.target(log_w).mean(), log_w)
