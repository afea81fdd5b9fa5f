"""Bounds from log-weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iwae_lab.bounds import StreamingBounds, elbo, ess, iwae_bound, normalized_weights


def log_weights(k: int, batch: int, scale: float = 30.0) -> torch.Tensor:
    return scale * torch.randn(k, batch, dtype=torch.float64, generator=torch.Generator().manual_seed(k * 100 + batch))


def test_bound_is_the_log_of_the_mean_weight() -> None:
    log_w = log_weights(7, 5, scale=2.0)
    torch.testing.assert_close(iwae_bound(log_w), log_w.exp().mean(0).log())
    torch.testing.assert_close(elbo(log_w), log_w.mean(0))


@pytest.mark.parametrize("shift", [-5000.0, 0.0, 5000.0])
def test_no_overflow_or_underflow_where_weights_do(shift: float) -> None:
    log_w = log_weights(50, 4)
    torch.testing.assert_close(iwae_bound(log_w + shift), iwae_bound(log_w) + shift)
    assert torch.isfinite(iwae_bound((log_w + shift).float())).all()


def test_each_datum_has_its_own_weights() -> None:
    log_w = log_weights(6, 9)
    for function in (iwae_bound, elbo, ess):
        together = function(log_w)
        assert together.shape == (9,)
        alone = torch.cat([function(log_w[:, i : i + 1]) for i in range(9)])
        torch.testing.assert_close(together, alone)


def test_normalized_weights_sum_to_one_and_carry_no_gradient() -> None:
    log_w = log_weights(6, 9).requires_grad_()
    weights = normalized_weights(log_w)
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(0), torch.ones(9, dtype=torch.float64))


def test_ess_is_k_for_equal_weights_and_one_for_a_single_heavy_one() -> None:
    equal = torch.full((8, 1), -100.0)
    single = torch.cat([torch.zeros(1, 1), torch.full((7, 1), -1e4)])
    assert ess(equal).item() == pytest.approx(8)
    assert ess(single).item() == pytest.approx(1)


@given(cuts=st.lists(st.integers(1, 9), max_size=6))
def test_streaming_gives_what_all_samples_at_once_give(cuts: list[int]) -> None:
    log_w = log_weights(10 + sum(cuts), 3)
    bounds = StreamingBounds()
    for chunk in log_w.split([10, *cuts]):
        bounds.add(chunk)
    assert bounds.k == len(log_w)
    torch.testing.assert_close(bounds.iwae_bound, iwae_bound(log_w))
    torch.testing.assert_close(bounds.elbo, elbo(log_w))
    torch.testing.assert_close(bounds.ess, ess(log_w))


def test_streaming_goes_on_after_a_chunk_without_weight() -> None:
    log_w = torch.cat([torch.full((2, 1), -torch.inf), log_weights(3, 1)])
    bounds = StreamingBounds()
    for chunk in log_w.split([2, 3]):
        bounds.add(chunk)
    assert bounds.elbo.item() == -torch.inf
    torch.testing.assert_close(bounds.iwae_bound, iwae_bound(log_w))


def test_bound_lies_between_mean_and_maximum() -> None:
    log_w = log_weights(5, 20)
    assert (elbo(log_w) <= iwae_bound(log_w)).all()
    assert (iwae_bound(log_w) <= log_w.max(0).values).all()
    assert (iwae_bound(log_w) >= log_w.max(0).values - math.log(5) - 1e-9).all()
