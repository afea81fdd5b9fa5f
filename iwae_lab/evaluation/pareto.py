"""Pareto k̂: whether the importance weights of an image are regular enough for the number of samples.

Vehtari, Simpson, Gelman, Yao & Gabry 2024 (arXiv 1507.02646): k̂ is the shape of a generalized Pareto distribution
fitted to the largest weights, whose moments of order 1/k̂ and above are infinite. Above 0.7 the estimate of p(x) from
these weights, and with it L̂_k, can't be trusted at any practical number of samples. The fit is that of Zhang &
Stephens 2009.
"""

import math

import torch
from torch import Tensor

__all__ = ["FEWEST", "UNRELIABLE", "LargestWeights", "pareto_k"]

UNRELIABLE = 0.7
FEWEST = 21  # samples: their tail, of 5, is the shortest fitted
PRIOR_SHAPE, PRIOR_WEIGHT = 0.5, 10  # of k̂; the weight in samples


class LargestWeights:
    """The largest log-weights of k that arrive in chunks, enough of them to fit the tail."""

    def __init__(self, k: int) -> None:
        self.count = math.ceil(min(0.2 * k, 3 * math.sqrt(k))) + 1
        self.kept: list[Tensor] = []

    def add(self, log_w: Tensor) -> None:
        """Take in the log-weights [chunk, batch] of more samples of the same images."""
        seen = torch.cat([*self.kept, log_w])
        self.kept = [seen.topk(min(self.count, len(seen)), dim=0).values]

    @property
    def log_w(self) -> Tensor:
        """[count, batch], largest first; fewer rows until as many have arrived."""
        return self.kept[0]


def pareto_k(log_w: Tensor) -> Tensor:
    """k̂ per image from its largest log-weights [tail + 1, batch], largest first; float64 [batch].

    The smallest of them is the threshold above which the tail begins. −∞ where all of them are equal, as with the exact
    posterior. NaN if the tail has fewer than 5 weights, as with fewer than 21 samples.
    """
    log_w = log_w.double()
    if len(log_w) < 6:
        return log_w.new_full(log_w.shape[1:], math.nan)
    weights = torch.exp(log_w - log_w[0])
    excess = (weights[:-1] - weights[-1]).flip(0)  # [tail, batch], smallest first
    tail, largest = len(excess), excess[-1]
    quartile = excess[math.floor(tail / 4 + 0.5) - 1].clamp(min=1e-300)  # 0 where weights are tied

    # profile likelihood of b = −k/σ on a grid, with a weak prior on b
    size = 30 + math.isqrt(tail)
    grid = 1 - torch.sqrt(size / (torch.arange(1, size + 1, device=excess.device, dtype=excess.dtype) - 0.5))
    b = 1 / largest + grid.unsqueeze(-1) / (3 * quartile)  # [size, batch]
    k = torch.stack([torch.log1p(-row * excess).mean(0) for row in b])
    profile = tail * (torch.log(-b / k) - k - 1)
    mean_b = (torch.softmax(profile, dim=0) * b).sum(0)

    shape = torch.log1p(-mean_b * excess).mean(0)
    shape = (tail * shape + PRIOR_WEIGHT * PRIOR_SHAPE) / (tail + PRIOR_WEIGHT)
    return torch.where(largest > 0, shape, -math.inf)
