"""Annealed importance sampling against models whose log p(x) is known."""

import pytest
import torch
from oracle import X, linear_gaussian, sigmoid_belief

from iwae_lab.errors import UserError
from iwae_lab.evaluation.ais import ais, bidirectional, reverse_ais


def z_score(values):
    """Of the mean of values whose expectation is claimed to be 1."""
    return ((values.mean() - 1) / (values.std() / len(values) ** 0.5)).item()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_both_bounds_close_in_on_log_p(layers):
    model = linear_gaussian(layers)
    gaps = []
    for temperatures in (2, 60):
        found = bidirectional(model, 800, chains=2, temperatures=temperatures, batch=800)
        truth = model.log_marginal(found.images).detach()
        below, above = truth - found.lower, found.upper - truth
        for gap in (below, above):
            assert gap.mean() > -4 * gap.std() / len(gap) ** 0.5
        gaps.append((below.mean().item(), above.mean().item()))
    assert all(few > 0.05 and few > 4 * many for few, many in zip(*gaps, strict=True)), gaps


@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_w_is_unbiased_for_p_and_its_reverse_for_one_over_p(layers, chains):
    """So also with a poor encoder and few temperatures, whatever the chains' number."""
    model = linear_gaussian(layers)
    lower = ais(model, X.expand(3000, -1), chains=chains, temperatures=3, batch=3000)
    assert abs(z_score((lower - model.log_marginal(X).detach()).exp())) < 4
    torch.manual_seed(0)
    with torch.no_grad():
        x, z = model.sample_joint(3000)
        upper = reverse_ais(model, x, z, chains=chains, temperatures=3, batch=3000)
    assert abs(z_score((model.log_marginal(x).detach() - upper).exp())) < 4


@pytest.mark.parametrize("layers", [1, 2])
def test_exact_at_the_exact_posterior(layers):
    model = linear_gaussian(layers, exact=True)
    found = bidirectional(model, 5, chains=2, temperatures=3)
    for bound in (found.lower, found.upper):
        torch.testing.assert_close(bound, model.log_marginal(found.images).detach())


def test_the_same_seed_gives_the_same_and_leaves_no_trace():
    model = linear_gaussian(2)
    torch.manual_seed(0)
    first, again, other = (bidirectional(model, 3, chains=2, temperatures=3, seed=seed) for seed in (1, 1, 2))
    after = torch.rand(3)
    torch.manual_seed(0)
    torch.testing.assert_close(after, torch.rand(3), rtol=0, atol=0)
    assert torch.equal(first.lower, again.lower)
    assert torch.equal(first.upper, again.upper)
    assert not torch.equal(first.lower, other.lower)
    assert all(p.grad is None for p in model.parameters())


def test_discrete_latents_are_refused():
    with pytest.raises(UserError, match="SigmoidBeliefNetwork has discrete latents"):
        bidirectional(sigmoid_belief(1), 3)
