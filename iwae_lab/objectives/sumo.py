"""Stochastically unbiased marginalisation objective."""

import math

import torch
from torch import Tensor

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["SUMO"]


class SUMO(Objective):
    """S = L̂_k + Σ_{j=1}^{J} (L̂_{k+j} − L̂_{k+j−1}) / P(J ≥ j)   (Luo et al. 2020, arXiv 2004.00353).

    J is random, one for a minibatch, which takes k + J samples, some k + 5 on average. Unbiased for log p(x) and no
    bound. Since E[S] does not depend on φ, φ minimises the variance of S, by descending S². P(J ≥ j) is 1/j up to
    j = 80 and falls by a tenth per step from there.
    """

    SLOW_UNTIL, DECAY = 80, 0.9

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.require_samples(k, 1)
        terms = self._terms(1 - torch.rand(()).item())
        log_w = model.log_weights(x, k + terms)
        counts = torch.arange(1, len(log_w) + 1, device=x.device, dtype=log_w.dtype)
        bounds = torch.logcumsumexp(log_w, 0) - counts.log().unsqueeze(-1)  # L̂_1 … L̂_{k+J} [k + J, batch]
        tails = self._tail(counts[:terms])
        estimate = bounds[k - 1] + (bounds[k - 1 :].diff(dim=0) / tails.unsqueeze(-1)).sum(0)
        return Estimate(-estimate.mean(), log_w[:k], estimate.square().mean())

    def _tail(self, j: Tensor) -> Tensor:
        """P(J ≥ j)."""
        return self.DECAY ** (j - self.SLOW_UNTIL).clamp_min(0) / j.clamp_max(self.SLOW_UNTIL)

    def _terms(self, uniform: float) -> int:
        """J as a function of a uniform number in (0, 1]: the largest j with P(J ≥ j) ≥ uniform."""
        if uniform * self.SLOW_UNTIL > 1:
            return int(1 / uniform)
        return self.SLOW_UNTIL + int(math.log(uniform * self.SLOW_UNTIL) / math.log(self.DECAY))
