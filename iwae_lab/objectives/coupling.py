"""Noise that makes the k samples of a datum depend on each other. Torch only.

Each sample by itself has the distribution q(z | x), so E (1/k) Σ_i w_i = p(x), and L̂_k of such samples is in
expectation at most log p(x): tighter, the smaller the variance of their mean weight (Domke & Sheldon 2019,
arXiv 1906.10115). It is not the L_k of independent samples. `rqmc` lowers that variance. `antithetic` lowers it where q
is off centre; where q is centred on the posterior, both samples of a pair weigh the same, and the bound is looser. Data
stay independent of each other.
"""

import functools

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from iwae_lab.models.base import Noise, fresh_noise
from iwae_lab.models.distributions import Bernoulli, Distribution

__all__ = ["COUPLINGS", "antithetic", "rqmc"]

BITS = 30  # of torch's Sobol' points


def antithetic(distribution: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
    """Sample i + ⌊k/2⌋ mirrors sample i, for i < ⌊k/2⌋, in every layer: −ε, or 1 − u.

    If k is odd, the last sample is unpaired. Wu, Goodman & Ermon 2019 (arXiv 1810.02555) use such pairs for the ELBO.
    As `Noise`: [k, batch, units].
    """
    k, *rest = shape
    half = distribution.noise((k // 2, *rest))
    mirrored = 1 - half if isinstance(distribution, Bernoulli) else -half
    return torch.cat([half, mirrored, distribution.noise((k % 2, *rest))])


def rqmc(distribution: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
    """The first k points of a scrambled Sobol' sequence, mapped through the noise's inverse CDF.

    Each datum's points get their own random digital shift (bitwise, which keeps them evenly spread), so that each is
    uniform. Points of the layers above the first are in random order: Latin supercube sampling (Owen 1998).
    Buchholz, Wenzel & Mandt 2018 (arXiv 1807.01604) train by such points. As `Noise`: [k, batch, units].
    """
    k, batch, units = shape
    points = _sobol(k, units, distribution[0].device).unsqueeze(1)
    if level:
        order = torch.rand(k, batch, device=points.device).argsort(0)
        points = points.squeeze(1)[order]
    shift = torch.randint(2**BITS, (batch, units), device=points.device)
    uniform = ((points ^ shift).double() + 0.5) * 2.0**-BITS
    noise = uniform if isinstance(distribution, Bernoulli) else torch.special.ndtri(uniform)
    return noise.to(distribution[0].dtype)


@torch.compiler.assume_constant_result  # of a function; the compiler looks through one that is cached
def _sobol(k: int, units: int, device: torch.device) -> Tensor:
    """k points [k, units] as integers below 2**BITS, with the linear scrambling of one seed."""
    return _scrambled(k, units, device)


@functools.cache
def _scrambled(k: int, units: int, device: torch.device) -> Tensor:
    points = SobolEngine(units, scramble=True, seed=0).draw(k, dtype=torch.float64)
    return (points * 2**BITS).long().to(device)


COUPLINGS: dict[str, Noise] = {"iid": fresh_noise, "antithetic": antithetic, "rqmc": rqmc}
