"""The oracle itself: its closed forms agree with each other and with brute force."""

import pytest
import torch
from helpers.oracle import X, compare, every_state, expected_target, linear_gaussian, sigmoid_belief

from iwae_lab.bounds import iwae_bound


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_log_weights_are_constant_at_the_exact_posterior(layers):
    model = linear_gaussian(layers, exact=True)
    log_w = model.log_weights(X, 50)
    torch.testing.assert_close(log_w, model.log_marginal(X).expand(50, 1))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_many_samples_reach_log_p_where_the_encoder_is_not_the_posterior(layers):
    torch.manual_seed(0)
    model = linear_gaussian(layers)
    w = (model.log_weights(X, 400_000) - model.log_marginal(X)).exp()
    assert abs(w.mean() - 1) < 5 * w.std() / 400_000**0.5 < 0.05


@pytest.mark.parametrize("layers", [1, 2])
def test_states_of_the_sigmoid_belief_network_sum_to_one(layers):
    model = sigmoid_belief(layers)
    log_q, log_p = every_state(model)
    torch.testing.assert_close(log_q.exp().sum().item(), 1.0)
    bounds = [expected_target(model, k, iwae_bound) for k in (1, 2, 3)]
    assert bounds[0] < bounds[1] < bounds[2] < log_p.logsumexp(0)


def test_compare_finds_one_biased_coordinate_among_unbiased_ones():
    torch.manual_seed(0)
    noise = torch.randn(40, 30, dtype=torch.float64)
    reference = torch.zeros_like(noise)
    assert compare(noise, reference).agrees
    biases = torch.zeros(30, dtype=torch.float64)
    biases[7], biases[8] = 2, -2  # their mean is zero
    assert not compare(noise + biases, reference).agrees
