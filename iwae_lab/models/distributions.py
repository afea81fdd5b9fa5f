"""Distributions of latents and pixels; each samples from given noise. Torch only."""

import functools
import math
from typing import Any, NamedTuple, cast

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from iwae_lab.console.errors import UserError

__all__ = ["Bernoulli", "Distribution", "Gaussian", "StandardNormal", "sum_softplus"]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
GROUP = 16


class Gaussian(NamedTuple):
    """A diagonal Gaussian; the last dimension holds its units."""

    mean: Tensor
    log_std: Tensor

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        """Standard normal noise of `shape` for `sample`."""
        return torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)

    def noise_from_bits(self, bits: Tensor) -> Tensor:
        """`noise` computed from independent 64-bit integers, int64 of the noise's shape."""
        return _normal(bits, self.mean.dtype)

    def sample(self, noise: Tensor) -> Tensor:
        """mean + σ·noise, [..., units]."""
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """log density summed over units, nats: [..., units] -> [...]."""
        return self.log_prob_of_sample(self.noise_of(z))

    def noise_of(self, z: Tensor) -> Tensor:
        """The noise whose `sample` is z, [..., units]."""
        return (z - self.mean) * torch.exp(-self.log_std)

    def log_prob_of_sample(self, noise: Tensor) -> Tensor:
        """`log_prob` of `sample(noise)`: z standardizes to the noise, which shortens the total derivative."""
        _require_units(self, noise)
        return -0.5 * noise.square().sum(-1) - self.log_std.sum(-1) - HALF_LOG_2PI * noise.shape[-1]


class Bernoulli(NamedTuple):
    """Independent binary units; the last dimension holds them."""

    logits: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        """Uniform noise of `shape` for `sample`."""
        return torch.rand(shape, generator=generator, dtype=self.logits.dtype, device=self.logits.device)

    def noise_from_bits(self, bits: Tensor) -> Tensor:
        """`noise` computed from independent 64-bit integers, int64 of the noise's shape."""
        return (bits & 0xFFFFFF).to(self.logits.dtype) * 2**-24  # exact in fp32, so always below 1

    def sample(self, noise: Tensor) -> Tensor:
        """1 where the noise is below the probability, else 0, [..., units]; no gradient."""
        return (noise < self.mean).to(noise.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p = Σ z·l − log(1 + e^l) over units, nats: [..., units] -> [...]."""
        _require_units(self, z)
        return (z * self.logits).sum(-1) - sum_softplus(self.logits)


def sum_softplus(logits: Tensor) -> Tensor:
    """Σ log(1 + e^l) over the last dimension: [..., units] -> [...]."""
    if not torch.compiler.is_compiling() or logits.shape[-1] % GROUP:
        return F.softplus(logits).sum(-1)
    return cast(Tensor, _SumSoftplus.apply(logits))


class _SumSoftplus(torch.autograd.Function):
    """`sum_softplus` for compiled code; eager code gains nothing from it.

    Σ max(l, 0) + Σ log Π (1 + e^−|l|), in products of `GROUP` factors from 1 to 2, so that it takes `GROUP` times fewer
    logarithms. The derivative is written out: autograd would differentiate every factor of the products.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        parts = logits.split(logits.shape[-1] // GROUP, dim=-1)
        products = functools.reduce(torch.mul, (1 + torch.exp(-part.abs()) for part in parts))
        return logits.clamp_min(0).sum(-1) + products.log().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return gradient.unsqueeze(-1) * torch.sigmoid(logits)


class StandardNormal(NamedTuple):
    """The prior N(0, I), with the methods of `Gaussian`; `zeros` [units] gives its units, type and device."""

    zeros: Tensor

    def noise(self, shape: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=self.zeros.dtype, device=self.zeros.device)

    def noise_from_bits(self, bits: Tensor) -> Tensor:
        return _normal(bits, self.zeros.dtype)

    def sample(self, noise: Tensor) -> Tensor:
        return noise

    def noise_of(self, z: Tensor) -> Tensor:
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        _require_units(self, z)
        return -0.5 * z.square().sum(-1) - HALF_LOG_2PI * z.shape[-1]


def _require_units(distribution: "Distribution", values: Tensor) -> None:
    """Raises `UserError` unless every parameter has as many units as the values: a broadcast one would count once."""
    for parameter in distribution:
        if parameter.shape[-1] != values.shape[-1]:
            shapes = ", ".join(str(list(parameter.shape)) for parameter in distribution)
            raise UserError(
                f"{type(distribution).__name__} with parameters {shapes}: expected {values.shape[-1]} units in each, "
                f"as many as the values have, {list(values.shape)}"
            )


def _normal(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers from 64-bit integers, each from its own two halves (Box & Muller 1958)."""
    high, low = ((half & 0xFFFFFFFF).to(dtype) for half in (bits >> 32, bits))
    radius = torch.sqrt(-2 * torch.log((high + 0.5) * 2**-32))
    return radius * torch.cos(low * (2 * math.pi * 2**-32))


Distribution = Gaussian | Bernoulli | StandardNormal
