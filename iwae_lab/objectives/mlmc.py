"""Multilevel Monte Carlo estimates of log p(x)."""

import math

import torch
from torch import Tensor

from iwae_lab.bounds import iwae_bound, normalized_weights
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["MLMC"]


class MLMC(Objective):
    """θ: ∇S, S = L̂_k + Δ_J / P(J), Δ_j = L̂ of 2^j·k samples − ½ (L̂ of one half of them + L̂ of the other).

    The single-term estimator of Shi & Cornish (AISTATS 2021), unbiased for log p(x). φ follows KL(p ‖ q) by the same
    correction of wake-φ: Σ_i c_i ∇log q(z_i | x), c_i = ∂S/∂log w_i, where reweighted wake-sleep has w̃_i and is biased.
    Samples need no derivative, so latents may be discrete. J is drawn for a whole minibatch, P(J = j) ∝ 2^(−1.5 j) from
    j = 1 on, which takes 4.3 k samples on average, without a limit 4.4 k. Where Δ_j² falls as 4^(−j), as it does if the
    weights have enough moments, variance and cost are finite. L̂_k is averaged over all groups of k.

    levels: the highest j. With it the mean of S is L_{2^levels·k}, a lower bound, and φ's bias is wake-φ's with as many
    samples; null: no limit. The highest J that is drawn decides how much memory a training takes: 2^J·k samples.
    """

    RATIO = 2**-1.5  # P(J = j + 1) / P(J = j): above 1/4, for a finite variance, and below 1/2, for a finite cost

    def __init__(self, levels: int | None = 10) -> None:
        super().__init__()
        require("levels", levels, levels is None or levels >= 1, "null or an integer of at least 1")
        self.levels = levels

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        level = self._level(1 - torch.rand(()).item())
        draw = model.draw(x, k * 2**level, "score")
        log_w = draw.log_w.detach()
        estimate, c = _mean_bound(log_w, k)
        all_of_them, halves = (_mean_bound(log_w, size) for size in (len(log_w), len(log_w) // 2))
        estimate = estimate + (all_of_them[0] - halves[0]) / self._probability(level)
        c = c + (all_of_them[1] - halves[1]) / self._probability(level)
        gain = (c * (draw.log_p + draw.log_q)).sum(0)
        return Estimate(-(estimate + gain - gain.detach()).mean(), draw.log_w[:k])

    def _level(self, uniform: float) -> int:
        """J as a function of a uniform number in (0, 1]: the largest j with P(J ≥ j) ≥ uniform."""
        beyond = self._beyond()
        level = 1 + int(math.log(uniform * (1 - beyond) + beyond) / math.log(self.RATIO))
        return level if self.levels is None else min(level, self.levels)

    def _probability(self, level: int) -> float:
        """P(J = level)."""
        return (1 - self.RATIO) * self.RATIO ** (level - 1) / (1 - self._beyond())

    def _beyond(self) -> float:
        """What the unlimited J has beyond the limit."""
        return 0.0 if self.levels is None else self.RATIO**self.levels


def _mean_bound(log_w: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean L̂ of groups of `size` samples [batch], and its derivative in each log w [samples, batch]."""
    groups = log_w.unflatten(0, (-1, size)).transpose(0, 1)  # [size, groups, batch]
    weights = normalized_weights(groups) / groups.shape[1]
    return iwae_bound(groups).mean(0), weights.transpose(0, 1).flatten(0, 1)
