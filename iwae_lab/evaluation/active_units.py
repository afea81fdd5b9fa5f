"""Which latent units carry information about the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from iwae_lab.evaluation.noise import BLOCK, image_noise
from iwae_lab.model import LatentVariableModel

__all__ = ["THRESHOLD", "ActiveUnits", "active_units"]

THRESHOLD = 0.01
SEED = 100


@dataclass(frozen=True)
class ActiveUnits:
    """Per stochastic layer, from the image upwards."""

    variances: list[Tensor]
    """A_u = Var_x E_q[u | x], float64 [units]; an estimate may fall below zero above the first layer"""
    means: list[Tensor]
    """E_x E_q[u | x], float64 [units]"""

    @property
    def active(self) -> list[Tensor]:
        """A_u > 0.01, [units]."""
        return [variances > THRESHOLD for variances in self.variances]

    @property
    def counts(self) -> list[int]:
        return [int(active.sum()) for active in self.active]


@torch.no_grad()
def active_units(
    model: LatentVariableModel, images: Tensor, *, samples: int = BLOCK, seed: int = SEED, batch: int = 100
) -> ActiveUnits:
    """A_u = Var over x of E_{q(u|x)}[u] on binary images [images, pixels] (Burda et al. 2016, section 5).

    Above the first layer the inner expectation is over the samples below too. Its Monte Carlo noise would
    add to a plain variance, so A_u is the covariance across x of two independent inner means of `samples`
    samples each, which is unbiased.
    """
    dtype = next(model.parameters()).dtype
    inner: list[Tensor] = []  # a layer's two inner means of every image [2, images, units]
    for start in range(0, len(images), batch):
        x = images[start : start + batch].to(dtype)
        noise = image_noise(seed, range(start, start + len(x)), x.device)
        first, *above = model.posteriors(x, 2 * samples, noise)
        exact = first.mean.double().expand(2, -1, -1)
        halves = [exact] + [q.mean.double().unflatten(0, (2, samples)).mean(1) for q in above]
        inner = inner or [half.new_empty(2, len(images), half.shape[-1]) for half in halves]
        for layer, half in zip(inner, halves, strict=True):
            layer[:, start : start + len(x)] = half
    variances, means = [], []
    for a, b in inner:
        variances.append(((a - a.mean(0)) * (b - b.mean(0))).sum(0) / (len(a) - 1))
        means.append((a.mean(0) + b.mean(0)) / 2)
    return ActiveUnits(variances, means)
