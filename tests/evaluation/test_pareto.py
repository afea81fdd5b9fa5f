"""Pareto k̂ against known tails and an independent fit."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers.oracle import X, linear_gaussian

from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.evaluation.pareto import LargestWeights, pareto_k


def k_hat(log_w: torch.Tensor, chunk: int = 250) -> torch.Tensor:
    largest = LargestWeights(len(log_w))
    for part in log_w.split(chunk):
        largest.add(part)
    return pareto_k(largest.log_w)


def zhang_stephens(log_w: np.ndarray) -> float:
    """One image at a time, from the paper: the tail above the (M + 1)th largest weight, M = min(0.2 k, 3 √k)."""
    weights = np.sort(np.exp(log_w - log_w.max()))
    m = math.ceil(min(len(log_w) / 5, 3 * len(log_w) ** 0.5))
    x = weights[-m:] - weights[-m - 1]
    n, size = len(x), 30 + int(len(x) ** 0.5)
    theta = [1 / x[-1] + (1 - (size / (j - 0.5)) ** 0.5) / (3 * x[int(n / 4 + 0.5) - 1]) for j in range(1, size + 1)]

    def log_likelihood(b: float) -> float:
        k = -np.mean(np.log(1 - b * x))
        return float(n * (np.log(b / k) + k - 1))

    values = [log_likelihood(b) for b in theta]
    posterior = [1 / sum(math.exp(other - value) for other in values) for value in values]
    b = sum(p * t for p, t in zip(posterior, theta, strict=True))
    return float((n * np.mean(np.log(1 - b * x)) + 5) / (n + 10))


@pytest.mark.parametrize("k", [21, 40, 500, 5000])
@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
def test_is_the_papers_fit_in_whatever_chunks(k: int, scale: float) -> None:
    log_w = scale * torch.randn(k, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) - 90
    expected = [zhang_stephens(image.numpy()) for image in log_w.T]
    for chunk in (7, 250, k):
        np.testing.assert_allclose(k_hat(log_w, chunk), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_finds_the_shape_of_a_pareto_tail(shape: float) -> None:
    u = torch.rand(20_000, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = k_hat(-shape * u.log())
    assert found.mean().item() == pytest.approx(shape, abs=0.05)
    log_w = (-shape * u.log())[:, 0].numpy()
    exceedances = np.sort(np.exp(log_w))[-425:]
    by_scipy, _, _ = scipy.stats.genpareto.fit(exceedances - exceedances[0], floc=0)
    assert found[0].item() == pytest.approx(by_scipy, abs=0.1)


def test_of_a_gaussian_proposal_is_known_in_closed_form() -> None:
    """Where q is s times as wide as p in one dimension, P(w > t) falls like t^(−1/k) with k = 1 − s²."""
    z = torch.randn(20_000, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for s in (0.4, 0.7):
        log_w = 0.5 * z.square() * (1 - s**2)
        assert k_hat(log_w).mean().item() == pytest.approx(1 - s**2, abs=0.1)
    assert (k_hat(-0.5 * z.square()) < 0.2).all()  # bounded weights


def test_equal_weights_need_no_fit_and_few_can_have_none() -> None:
    assert (k_hat(torch.full((1000, 3), -80.0)) == -math.inf).all()
    ties = torch.full((1000, 2), -80.0)
    ties[:3] = -79.0
    assert not k_hat(ties).isnan().any()
    assert k_hat(torch.randn(20, 3)).isnan().all()
    assert not k_hat(torch.randn(21, 3)).isnan().any()


def test_reports_the_share_of_images_whose_bound_cannot_be_trusted() -> None:
    model = linear_gaussian(1)
    x = X.expand(3, -1)
    trusted = likelihood(model, x, 5000)
    assert trusted.unreliable == 0
    with torch.no_grad():
        model.encoder[0].log_std.sub_(1.5)  # far narrower than the posterior
    found = likelihood(model, x, 5000)
    assert (found.pareto_k > 0.7).all()
    assert found.unreliable == 1
    assert likelihood(model, x, 20).unreliable is None
