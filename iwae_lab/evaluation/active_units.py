"""Which latent units carry information about the image, and how sure that count is.

With two layers, A_u of the first depends on the scale of its units and counts those that merely follow p(z_1 | z_2).
So compare counts per layer, together with the units' KL (`iwae_lab.evaluation.diagnostics`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import require
from iwae_lab.evaluation.images import require_images
from iwae_lab.evaluation.noise import BLOCK, image_noise
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Distribution

__all__ = ["THRESHOLD", "ActiveUnits", "WithoutUnits", "active_units", "authors_counts"]

THRESHOLD = 0.01
SEED = 100
AUTHORS_IMAGES = 500


@dataclass(frozen=True)
class ActiveUnits:
    """The units of each stochastic layer, from the image upwards."""

    variances: list[Tensor]
    """A_u = Var_x E_q[u | x], float64 [units]; an estimate may fall below zero above the first layer"""
    means: list[Tensor]
    """E_x E_q[u | x], float64 [units]"""
    inner: list[Tensor]
    """two independent estimates of E_q[u | x] for each image, float64 [2, images, units]"""

    @property
    def active(self) -> list[Tensor]:
        """A_u > 0.01, [units]."""
        return [variances > THRESHOLD for variances in self.variances]

    @property
    def counts(self) -> list[int]:
        return [int(active.sum()) for active in self.active]

    def intervals(self, level: float = 0.95, resamples: int = 1000, seed: int = SEED) -> list[tuple[int, int]]:
        """Bootstrap percentiles of the counts over images, lowest and highest per layer."""
        ends = []
        generator = torch.Generator().manual_seed(seed)
        for a, b in self.inner:
            n = len(a)
            picked = torch.randint(n, (resamples, n), generator=generator)
            times = torch.stack([row.bincount(minlength=n) for row in picked]).to(a)  # how often each image was picked
            a, b = a - a.mean(0), b - b.mean(0)
            variances = (times @ (a * b) - (times @ a) * (times @ b) / n) / (n - 1)
            counts = (variances > THRESHOLD).sum(1).double()
            tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=counts.device)
            low, high = counts.quantile(tail, interpolation="nearest").tolist()
            ends.append((int(low), int(high)))
        return ends


@torch.no_grad()
def active_units(
    model: LatentVariableModel, images: Tensor, *, samples: int = BLOCK, seed: int = SEED, batch: int = 100
) -> ActiveUnits:
    """A_u = Var over x of E_{q(u|x)}[u] on binary images [images, pixels] (Burda et al. 2016, section 5).

    Above the first layer the inner expectation is over the samples below too. Its Monte Carlo noise would
    add to a plain variance, so A_u is the covariance across x of two independent inner means of `samples`
    samples each, which is unbiased.

    Raises `UserError` as `require_images` does, and for a single image.
    """
    require_images(model, images)
    require("images", len(images), len(images) >= 2, "at least 2, for a variance")
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
    return ActiveUnits(variances, means, inner)


@torch.no_grad()
def authors_counts(model: LatentVariableModel, images: Tensor, *, seed: int = SEED) -> list[int]:
    """Active units per layer as the authors' published code counts them, to compare with the paper.

    Takes the first 500 binary training images [images, pixels] and the posterior means at one sampled path
    through the layers below. Above the first layer their variance contains that path's noise, so this counts too many.
    Raises `UserError` for images that are not binary.
    """
    require_images(model, images)
    x = images[:AUTHORS_IMAGES].to(next(model.parameters()).dtype)
    first, *above = model.posteriors(x, 1, image_noise(seed, range(len(x)), x.device))
    means = [first.mean, *(q.mean[0] for q in above)]
    return [int((mean.double().var(0, correction=0) > THRESHOLD).sum()) for mean in means]


class WithoutUnits(LatentVariableModel):
    """A model without some latent units: they are fixed at constants and left out of both densities.

    keep: the units of each layer that stay, bool [units]. constants: values for the others, [units]; those of units
    that stay do not matter. Shares the parameters of `model`, which can be any with an encoder, a decoder and a prior.
    """

    def __init__(self, model: LatentVariableModel, keep: list[Tensor], constants: list[Tensor]) -> None:
        super().__init__()
        self.whole = model
        kept = [units.nonzero().squeeze(1) for units in keep]
        self.kept_on_top = kept[-1]
        latents = list(zip(kept, constants, strict=True))
        self.encoder = nn.ModuleList(map(_Restricted, model.encoder, [None, *latents[:-1]], kept))
        self.decoder = nn.ModuleList(map(_Restricted, model.decoder, latents, [None, *kept[:-1]]))

    def prior(self) -> Distribution:
        return _units(self.whole.prior(), self.kept_on_top)


class _Restricted(nn.Module):
    """A conditional with some inputs fixed and some outputs left out; the others are given by index."""

    kept: Tensor | None
    constants: Tensor
    outputs: Tensor | None

    def __init__(self, layer: nn.Module, inputs: tuple[Tensor, Tensor] | None, outputs: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        kept, constants = inputs or (None, None)
        for name, values in (("kept", kept), ("constants", constants), ("outputs", outputs)):
            self.register_buffer(name, values)

    def forward(self, h: Tensor) -> Distribution:
        """h [rows, inputs that vary] -> the distribution of the outputs that matter."""
        if self.kept is not None:
            h = self.constants.to(h).repeat(len(h), 1).index_copy(1, self.kept, h)
        whole = self.layer(h)
        return whole if self.outputs is None else _units(whole, self.outputs)


def _units(distribution: Distribution, indices: Tensor) -> Distribution:
    return type(distribution)(*(parameter.index_select(-1, indices) for parameter in distribution))
