"""Approximation and amortization gaps against closed forms of linear Gaussian models."""

import pytest
import torch
from helpers.models import every_model, images, is_discrete, small
from helpers.oracle import X, linear_gaussian, sigmoid_belief
from hypothesis import example, given
from hypothesis import strategies as st

from iwae_lab.console.errors import UserError
from iwae_lab.evaluation import gaps
from iwae_lab.evaluation.against_ais import against_ais
from iwae_lab.evaluation.ais import Annealing, ais
from iwae_lab.evaluation.gaps import encoder_gaps
from iwae_lab.evaluation.kept import Part
from iwae_lab.evaluation.likelihood import likelihood


def test_are_the_closed_forms_for_one_layer():
    """The best diagonal Gaussian has the posterior's mean and the inverse of its precision's diagonal as variances."""
    model = linear_gaussian(1)
    x = torch.cat([X, 2 * X, -X, X + 1])
    found = encoder_gaps(model, x, model.log_marginal(x).detach(), steps=300)
    with torch.no_grad():
        decoder, encoder = model.decoder[0], model.encoder[0]
        noise = torch.diag((-2 * decoder.log_std).exp())
        precision = torch.eye(2, dtype=torch.float64) + decoder.weight.T @ noise @ decoder.weight
        means = (x - decoder.bias) @ noise @ decoder.weight @ precision.inverse()
        posterior = [torch.distributions.MultivariateNormal(mean, precision_matrix=precision) for mean in means]
        best = torch.diag(1 / precision.diagonal())
        approximation = torch.stack([
            torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(p.mean, best), p)
            for p in posterior
        ])  # fmt: skip
        q = encoder(x)
        variances = torch.diag_embed((2 * q.log_std).exp())
        inference = torch.stack([
            torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(m, v), p)
            for m, v, p in zip(q.mean, variances, posterior, strict=True)
        ])  # fmt: skip
    assert approximation.min() > 0.01 and (inference - approximation).min() > 0.05
    torch.testing.assert_close(found.approximation, approximation, atol=0.02, rtol=0)
    torch.testing.assert_close(found.approximation + found.amortization, inference, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_there_is_nothing_to_gain_on_an_exact_posterior(layers):
    model = linear_gaussian(layers, exact=True)
    x = torch.cat([X, 2 * X])
    found = encoder_gaps(model, x, model.log_marginal(x).detach(), steps=20)
    for gap in (found.approximation, found.amortization):
        torch.testing.assert_close(gap, torch.zeros(2, dtype=torch.float64), atol=2e-3, rtol=0)


@pytest.mark.parametrize("layers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_layer_is_optimised_and_the_bounds_stay_in_order(layers):
    model = linear_gaussian(layers)
    x = torch.cat([X, 3 * X, -X])
    log_p = model.log_marginal(x).detach()
    found = encoder_gaps(model, x, log_p, steps=200)
    torch.testing.assert_close(found.elbo, likelihood(model, x, 1000, seed=gaps.SEED).elbo)
    assert (found.approximation > -0.05).all() and (found.amortization > 0.05).all()
    with torch.no_grad():  # a fault in the upper layer alone is mended image by image
        model = linear_gaussian(layers, exact=True)
        model.encoder[-1].bias.add_(1)
    found = encoder_gaps(model, x, model.log_marginal(x).detach(), steps=400)
    assert (found.amortization > 0.3).all() and found.approximation.abs().max() < 0.05


def test_depends_on_the_seed_and_leaves_no_trace():
    model, x, done = linear_gaussian(2), X.expand(5, -1), []
    torch.manual_seed(0)
    first, again, other = (
        encoder_gaps(model, x, torch.zeros(5), steps=5, seed=seed, rows=500, progress=done.append) for seed in (1, 1, 2)
    )
    after = torch.rand(3)
    torch.manual_seed(0)
    torch.testing.assert_close(after, torch.rand(3), rtol=0, atol=0)
    assert torch.equal(first.best_elbo, again.best_elbo) and not torch.equal(first.best_elbo, other.best_elbo)
    assert all(p.grad is None for p in model.parameters())
    assert done[14] == 1 and done[:15] == sorted(done[:15])


def test_discrete_latents_are_refused():
    with pytest.raises(UserError, match="SigmoidBeliefNetwork has discrete latents"):
        encoder_gaps(sigmoid_belief(1), X.round().clamp(0, 1), torch.zeros(1))


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match="images"):
        encoder_gaps(linear_gaussian(1), X[:, 1:], torch.zeros(1))


@pytest.mark.parametrize("log_p", [torch.zeros(3, 1), torch.zeros(1), torch.zeros(())])
def test_values_of_other_shapes_than_one_per_image_are_refused(log_p):
    model, x = linear_gaussian(1), X.expand(3, -1)
    with pytest.raises(UserError, match=r"log_p=.*: expected shape \[3\]"):
        encoder_gaps(model, x, log_p, steps=1)
    with pytest.raises(UserError, match=r"sampled=.*: expected shape \[3\]"):
        against_ais(model, x, log_p, Annealing(1, 1, 1))


@example((1, 11), (11, 1))
@given(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 12)] * 2))
def test_results_that_are_kept_belong_to_their_settings(settings, others):
    def part(settings):
        return Part(kept, model, X, *settings)

    model, kept = linear_gaussian(1), {}
    part(settings).keep(settings)
    assert (part(others).restored() is None) == (settings != others)


@every_model
def test_every_model_has_gaps_and_bounds_from_either_start_or_refuses(name):
    model, x, how = small(name), images(3), Annealing(2, 3, 2, start="prior")
    if is_discrete(model):
        with pytest.raises(UserError, match="has discrete latents"):
            encoder_gaps(model, x, torch.zeros(3))
        return
    bounds = ais(model, x, how).bound
    found = encoder_gaps(model, x, bounds, steps=5, samples=3)
    assert bounds.isfinite().all() and found.best_elbo.isfinite().all()
    assert torch.equal(found.elbo, likelihood(model, x, 1000, seed=gaps.SEED, rows=100_000).elbo)
