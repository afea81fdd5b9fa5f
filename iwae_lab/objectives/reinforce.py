"""Score-function gradient of the importance weighted bound."""

import torch
from torch import Tensor

from iwae_lab.bounds import iwae_bound, normalized_weights
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["Reinforce"]


class Reinforce(ImportanceWeighted):
    """(L̂_k − b) Σ_i ∇log q(z_i | x) + Σ_i w̃_i ∇log w_i   (Mnih & Rezende 2016, arXiv 1602.06725).

    b is the running mean of L̂_k over past minibatches (Williams 1992), and 0 in the first. Unbiased for IWAE; samples
    need no derivative, so latents may be discrete.
    """

    baseline: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        require("decay", decay, 0 <= decay < 1, "a number from 0 to below 1")
        self.decay = decay
        self.register_buffer("baseline", torch.tensor(torch.nan))

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        draw = model.draw(x, k, "score")
        bound = iwae_bound(draw.log_w.detach())
        signal = bound - self.baseline.nan_to_num()
        mean = bound.mean().to(self.baseline)
        self.baseline.copy_(torch.where(self.baseline.isnan(), mean, self.baseline.lerp(mean, 1 - self.decay)))
        weights = normalized_weights(draw.log_w)
        gain = (signal * draw.log_q + weights * draw.log_w).sum(0).mean()
        return Estimate(-gain, draw.log_w)
