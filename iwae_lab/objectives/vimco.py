"""Variational inference for Monte Carlo objectives."""

import math

import torch
from torch import Tensor

from iwae_lab.bounds import iwae_bound, log_sum_of_others, normalized_weights
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["VIMCO"]


class VIMCO(ImportanceWeighted):
    """Σ_i (L̂_k − L̂_k^{−i}) ∇log q(z_i | x) + Σ_i w̃_i ∇log w_i   (Mnih & Rezende 2016, arXiv 1602.06725).

    L̂_k^{−i} is L̂_k with w_i replaced by the geometric mean of the others: a baseline that does not depend on
    z_i. Unbiased for IWAE; samples need no derivative, so latents may be discrete. k ≥ 2.
    """

    compilable = True

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.require_samples(k, 2)  # the baseline of one is the others
        draw = model.draw(x, k, "score")
        log_w = draw.log_w.detach()
        log_w = log_w - log_w.max(0).values  # float32 would lose the signal in logs near log p(x)
        others = (log_w.sum(0) - log_w) / (k - 1)
        signal = iwae_bound(log_w) - torch.logaddexp(log_sum_of_others(log_w), others) + math.log(k)
        weights = normalized_weights(draw.log_w)
        gain = (signal * draw.log_q + weights * draw.log_w).sum(0).mean()
        return Estimate(-gain, draw.log_w)
