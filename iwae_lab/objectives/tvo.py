"""Thermodynamic variational objective."""

import itertools

import torch
from torch import Tensor

from iwae_lab.bounds import elbo
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["TVO"]


class TVO(Objective):
    """Σ_i (β_{i+1} − β_i) E_{π_βi}[log w], π_β ∝ q^(1−β) p^β   (Masrani et al. 2019, arXiv 1907.00031).

    A left Riemann sum of d/dβ log Z_β, so at most log p(x). Its gradient E[∇log w] + Cov(∇log π̃_β, log w)
    needs no derivative of samples; expectations are self-normalised with weights ∝ w^β, hence biased for
    finite k. At β = 0 they are exact, so a single interval is unbiased for the ELBO. k ≥ 2.

    betas: the points 0 = β_0 < β_1 < … < 1, instead of `intervals` and `first`; null: 0, then `intervals` − 1 points in
    equal steps of the logarithm from `first` towards 1.
    """

    compilable = True

    def __init__(self, intervals: int = 5, first: float = 0.03, betas: list[float] | None = None) -> None:
        super().__init__()
        require("intervals", intervals, intervals >= 1, "an integer of at least 1")
        require("first", first, 0 < first < 1, "a number between 0 and 1")
        if betas is None:
            betas = [0.0] + [first ** (1 - i / (intervals - 1)) for i in range(intervals - 1)]
        edges = [*betas, 1.0]
        increasing = edges[0] == 0 and all(a < b for a, b in itertools.pairwise(edges))
        require("betas", betas, increasing, "increasing numbers from 0 to below 1, 0 among them")
        self.betas = betas

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.require_samples(k, 2)  # for a covariance
        draw = model.draw(x, k, "score")
        log_w = draw.log_w.detach()
        from_p, from_q = torch.zeros_like(log_w), torch.zeros_like(log_w)
        for beta, following in itertools.pairwise([*self.betas, 1.0]):
            weights = torch.softmax(beta * log_w, dim=0)
            centred = log_w - (weights * log_w).sum(0)
            covariance = k / (k - 1) * weights * centred  # the factor makes it unbiased at β = 0
            from_p += (following - beta) * (weights + beta * covariance)
            from_q += (following - beta) * ((1 - beta) * covariance - weights)
        return Estimate(-(from_p * draw.log_p + from_q * draw.log_q).sum(0).mean(), draw.log_w)

    def target(self, log_w: Tensor) -> Tensor | None:
        return elbo(log_w) if len(self.betas) == 1 else None
