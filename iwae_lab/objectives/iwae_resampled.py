"""Importance weighted autoencoder with few of its k samples in the backward pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from iwae_lab.bounds import normalized_weights
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel, Noise
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["Chosen", "IWAEResampled", "Resampling", "resample"]


class IWAEResampled(ImportanceWeighted):
    """Σ_j v_j ∇log w_j over m of the k samples, with E[Σ_j v_j ∇log w_j] = Σ_i w̃_i ∇log w_i.

    Unbiased for IWAE's gradient (Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519, eq. 14); section 3 there
    proposes m = 1. The k samples are weighed without a graph; the m that `resample` chooses (Fearnhead &
    Clifford 2003) are computed again from their noise. With m ≥ k it is IWAE's gradient.
    """

    compilable = True
    couplable = True

    def __init__(self, kept: int = 8) -> None:
        super().__init__()
        self.choose = Resampling(kept)

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        chosen = self.choose(model, x, k, self.noise)
        log_w = model.log_weights(x, len(chosen.weights), chosen.noise)
        return Estimate(-(chosen.weights * log_w).sum(0).mean(), chosen.log_w)


@dataclass(frozen=True)
class Chosen:
    """m of k samples, as `resample` chooses them."""

    log_w: Tensor
    """of all samples, [k, batch], without a graph"""
    normalized: Tensor
    """w̃ of the m, [m, batch]"""
    weights: Tensor
    """v [m, batch]: E[Σ_j v_j f_j] = Σ_i w̃_i f_i"""
    noise: Noise
    """draws the m samples again"""


class Resampling:
    """Weighs k samples without a graph and chooses m of them, or all where k ≤ m."""

    def __init__(self, kept: int) -> None:
        require("kept", kept, kept >= 1, "an integer of at least 1")
        self.kept = kept

    @torch.no_grad()
    def __call__(self, model: LatentVariableModel, x: Tensor, k: int, noise: Noise) -> Chosen:
        """Of k samples for each row of x [batch, pixels]."""
        draw = model.draw(x, k, noise=noise)
        normalized = normalized_weights(draw.log_w)
        indices, weights = resample(normalized, min(self.kept, k))
        return Chosen(
            draw.log_w,
            normalized.gather(0, indices),
            weights,
            lambda q, level, shape: draw.noise[level].gather(0, indices.unsqueeze(-1).expand(shape)),
        )


def resample(weights: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """m different rows of `weights` [k, batch], which sum to 1 over k, and the weights they stand for: [m, batch] each.

    Those above a threshold c are kept, the others drawn with probability w/c and given the weight c, by one uniform
    number per column: unbiased, and of all such schemes the one of least variance (Fearnhead & Clifford 2003, section
    3.2).
    """
    weights = weights.clamp_min(1e-30)  # so that m of them are above zero
    threshold = _threshold(weights, m)
    probability = (weights / threshold).clamp_max(1)
    positions = probability.cumsum(0) * (m / probability.sum(0))  # up to m, whatever the sum was rounded to
    uniform = torch.rand_like(threshold).clamp_min(m * torch.finfo(weights.dtype).eps)  # so that j + u > j
    points = torch.arange(m, device=weights.device, dtype=weights.dtype)[:, None] + uniform
    chosen = (positions < points.unsqueeze(1)).sum(1).clamp_max(len(weights) - 1)
    return chosen, torch.maximum(weights.gather(0, chosen), threshold)


def _threshold(weights: Tensor, m: int) -> Tensor:
    """c [batch] with Σ_i min(1, w_i / c) = m; the smallest weight where m = k."""
    descending = weights.sort(0, descending=True).values
    rest = descending.flip(0).cumsum(0).flip(0)[:m]  # tail sums of the sorted weights
    shares = rest / torch.arange(m, 0, -1, device=weights.device, dtype=weights.dtype)[:, None]
    kept = (descending[:m] > shares).sum(0, keepdim=True).clamp_max(m - 1)
    return shares.gather(0, kept).squeeze(0)
