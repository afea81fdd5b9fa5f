"""Noise by streams and by hashing, on the CPU."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from iwae_lab.evaluation import noise
from iwae_lab.evaluation.active_units import active_units
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.evaluation.noise import BLOCK, HashedNoise, StreamNoise, image_noise
from iwae_lab.models.distributions import Bernoulli, Gaussian
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork

CPU = torch.device("cpu")
GAUSSIAN = Gaussian(torch.zeros(3), torch.zeros(3))
BERNOULLI = Bernoulli(torch.zeros(3))


@pytest.mark.parametrize("kind", [HashedNoise, StreamNoise])
@pytest.mark.parametrize("q", [GAUSSIAN, BERNOULLI])
def test_depends_on_neither_the_batch_nor_the_chunks(kind, q):
    together, alone = kind(5, [3, 4, 900], CPU), kind(5, [4], CPU)
    whole = torch.cat([together(q, 1, (k, 3, 3)) for k in (BLOCK, 2 * BLOCK, 7)])
    parts = torch.cat([alone(q, 1, (k, 1, 3)) for k in (2 * BLOCK, BLOCK, 7)])
    assert torch.equal(whole[:, 1:2], parts)


@pytest.mark.parametrize("kind", [HashedNoise, StreamNoise])
def test_differs_between_seeds_images_layers_samples_and_units(kind):
    drawn = [kind(seed, [0, 1], CPU)(GAUSSIAN, level, (10, 2, 3)) for seed in (0, 1) for level in (0, 1)]
    numbers = torch.stack(drawn).flatten()
    assert len(numbers.unique()) == len(numbers)


def test_streams_are_seeded_as_they_always_were():
    """By SplitMix64's finalizer, here in Python's integers, so that recorded likelihoods can be computed again."""
    seed = 0
    for number in (5000, 12, 1):
        seed = (seed + number + 1) * 0x9E3779B97F4A7C15 % 2**64
        seed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EB % 2**64
        seed ^= seed >> 31
    expected = torch.randn(BLOCK, 3, generator=torch.Generator().manual_seed(seed >> 1))
    assert torch.equal(image_noise(5000, [12], CPU)(GAUSSIAN, 1, (BLOCK, 1, 3))[:, 0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("family", "cdf"), [(Gaussian, "norm"), (Bernoulli, "uniform")])
def test_hashed_noise_has_its_distribution_and_independent_neighbours(family, cdf, dtype):
    q = family(*(torch.zeros(20, dtype=dtype) for _ in family._fields))
    drawn = HashedNoise(1, range(50), CPU)(q, 0, (300, 50, 20))
    assert drawn.dtype == dtype
    flat = drawn.double().flatten()
    assert scipy.stats.kstest(flat.numpy(), cdf).pvalue > 1e-4
    standard = (flat - flat.mean()).div(flat.std()).view(drawn.shape)
    for moment, exact in {"norm": [(4, 3), (6, 15)], "uniform": [(4, 1.8)]}[cdf]:
        powers = standard**moment
        assert abs(powers.mean() - exact) < 5 * powers.std() / math.sqrt(len(flat))
    other = HashedNoise(1, range(50), CPU)(q, 1, (300, 50, 20)).double().sub(flat.mean()).div(flat.std())
    pairs = [(standard, other)] + [
        (standard.narrow(d, 0, n), standard.narrow(d, 1, n)) for d, n in enumerate([299, 49, 19])
    ]
    for a, b in pairs:  # layers, samples, images, units
        for f in (lambda u: u, torch.square):
            correlation = torch.corrcoef(torch.stack([f(a).flatten(), f(b).flatten()]))[0, 1]
            assert abs(correlation) < 5 / math.sqrt(a.numel())


def test_hashed_noise_is_finite_at_the_extremes():
    bits = torch.tensor([0, -1, 2**63 - 1, -(2**63), 2**32 - 1])
    normal, uniform = GAUSSIAN.noise_from_bits(bits), BERNOULLI.noise_from_bits(bits)
    assert normal.isfinite().all() and normal[0] == pytest.approx((66 * math.log(2)) ** 0.5)
    assert ((uniform >= 0) & (uniform < 1)).all()


def images(n: int) -> Tensor:
    return (torch.rand(n, 20, generator=torch.Generator().manual_seed(1)) < 0.4).byte()


@pytest.mark.parametrize("architecture", [HierarchicalModel, SigmoidBeliefNetwork])
def test_hashed_likelihoods_are_those_of_streams_but_for_the_noise(architecture, monkeypatch):
    torch.manual_seed(0)
    model = architecture([6, 4], [[10], [8]], mean_image=torch.rand(20)).double()
    x = images(200)
    streams, units = likelihood(model, x, 300), active_units(model, x)
    monkeypatch.setattr(noise, "HASHED_ON", ("cpu",))
    found = likelihood(model, x, 300)
    torch.testing.assert_close(likelihood(model, x, 300, rows=250).bound, found.bound, rtol=1e-12, atol=0)
    torch.testing.assert_close(likelihood(model, x[:7], 300).bound, found.bound[:7], rtol=1e-12, atol=0)
    for a, b in ((found.bound, streams.bound), (found.elbo, streams.elbo)):
        difference = a - b
        assert difference.abs().max() > 0
        assert difference.mean().abs() < 4 * difference.std() / 200**0.5
    torch.testing.assert_close(active_units(model, x).variances[1], units.variances[1], rtol=0.1, atol=0.002)
