"""Sticking the landing: path derivatives only."""

import torch
from torch import Tensor

from iwae_lab.bounds import elbo, iwae_bound, normalized_weights
from iwae_lab.console.errors import require_one_of
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["STL"]


class STL(Objective):
    """φ: Σ_i ω_i D_i, with D the path derivative of log w   (Roeder, Wu & Duvenaud 2017, arXiv 1703.09194).

    θ: Σ_i ω_i ∇log w_i. The score ∇_φ log q is left out. With bound="elbo", where ω = 1/k, its mean is zero, so φ's
    estimator is unbiased. With bound="iwae", where ω = w̃, it is not, so φ's estimator is biased for k > 1 (Tucker et
    al. 2019, arXiv 1810.04152). Its variance falls to zero in both cases as q nears the posterior.
    """

    is_bound = True
    compilable = True

    def __init__(self, bound: str = "iwae") -> None:
        super().__init__()
        require_one_of("bound", bound, ("iwae", "elbo"))
        self.bound = bound
        self.couplable = bound == "elbo"

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        log_w = model.draw(x, k, "path", self.noise).log_w
        weights = normalized_weights(log_w) if self.bound == "iwae" else torch.full_like(log_w, 1 / k)
        return Estimate(-(weights * log_w).sum(0).mean(), log_w)

    def target(self, log_w: Tensor) -> Tensor:
        return iwae_bound(log_w) if self.bound == "iwae" else elbo(log_w)

    def inference_target(self, log_w: Tensor) -> Tensor | None:
        return elbo(log_w) if self.bound == "elbo" or len(log_w) == 1 else None
