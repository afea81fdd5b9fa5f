"""Estimators against each other, and against what their papers say of their means and variances."""

import itertools
import math

import pytest
import torch
from helpers.objectives import mean_and_error, objective
from helpers.oracle import (
    BINARY_X,
    X,
    compare,
    estimates,
    every_state,
    gradient_of,
    linear_gaussian,
    reference,
    sigmoid_belief,
)

from iwae_lab.bounds import elbo, iwae_bound, log_sum_of_others
from iwae_lab.console.errors import UserError


def test_log_sum_of_others_is_that_and_stays_exact_where_one_weight_has_all():
    torch.manual_seed(0)
    for scale in (1, 30, 1000):
        log_w = scale * torch.randn(6, 4, dtype=torch.float64)
        expected = torch.stack([log_w[torch.arange(6) != i].logsumexp(0) for i in range(6)])
        torch.testing.assert_close(log_sum_of_others(log_w), expected)
    equal = torch.zeros(2, 3)
    torch.testing.assert_close(log_sum_of_others(equal), equal)
    assert (log_sum_of_others(torch.zeros(1, 3)) == -math.inf).all()


class TestVRIWAE:
    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize(("alpha", "same"), [(0.0, "dreg"), (1.0, "stl bound=elbo")])
    def test_at_its_ends_it_is_dreg_and_sticking_the_landing(self, alpha, same, layers):
        model = linear_gaussian(layers)
        found, expected = (
            estimates(objective(spec), model, X, 5, replicates=1) for spec in (f"vr_iwae alpha={alpha}", same)
        )
        torch.testing.assert_close(found.generative, expected.generative)
        torch.testing.assert_close(found.inference, expected.inference)

    def test_its_variance_in_phi_is_below_that_of_the_plain_gradient(self):
        model = linear_gaussian(1)
        doubly, plain = (estimates(objective(s), model, X, 20).inference.var(0) for s in ("vr_iwae", "renyi"))
        assert doubly.sum() < plain.sum() / 2


class TestOVIS:
    @pytest.mark.parametrize("layers", [1, 2])
    def test_gamma_adds_the_wake_update(self, layers):
        model = linear_gaussian(layers)
        found = estimates(objective("ovis gamma=1.0"), model, X, 3).inference
        unbiased, wake = (estimates(objective(spec), model, X, 3).inference for spec in ("ovis", "rws"))
        assert compare(found, unbiased + wake).agrees
        assert not compare(found, unbiased).agrees

    @pytest.mark.parametrize("gamma", [0.0, 0.3])
    def test_asymptotic_form_is_its_formula_written_out(self, gamma):
        torch.manual_seed(0)
        model, made = linear_gaussian(1), objective(f"ovis gamma={gamma}")
        found = gradient_of(model, lambda: seeded(made, model, 4).loss.backward()).inference
        torch.manual_seed(1)
        draw = model.draw(X, 4, "score")
        log_w = draw.log_w.detach()
        signals = []
        for i in range(4):
            others = log_w[torch.arange(4) != i]
            d = iwae_bound(log_w) - log_w.softmax(0)[i]
            c = iwae_bound(others) - gamma * log_w.softmax(0)[i] + (1 - gamma) * math.log(1 - 1 / 4)
            signals.append(d - c)
        loss = -(torch.stack(signals) * draw.log_q).sum(0).mean()
        torch.testing.assert_close(found, gradient_of(model, loss.backward).inference)

    def test_the_monte_carlo_form_approaches_the_best_control_variate(self):
        """Less variance than VIMCO's, and the less the more auxiliary samples."""
        model = linear_gaussian(1)
        one, many, vimco = (
            estimates(objective(s), model, X, 8).inference.var(0).sum()
            for s in ("ovis auxiliary=1", "ovis auxiliary=30", "vimco")
        )
        assert many < one / 1.3
        assert many < vimco * 1.1

    def test_few_samples_are_refused_but_in_the_monte_carlo_form(self):
        with pytest.raises(UserError, match="k=1: expected at least 2 for OVIS"):
            objective("ovis")(linear_gaussian(1), X, 1)
        model = linear_gaussian(1)
        found = estimates(objective("ovis auxiliary=2"), model, X, 1)
        assert compare(found.inference, reference(elbo, lambda w: w, model, X, 1).inference).agrees


def seeded(made, model, k, seed=1):
    torch.manual_seed(seed)
    return made(model, X, k)


class TestMLMC:
    @pytest.mark.parametrize("levels", [2, "null"])
    @pytest.mark.parametrize("k", [1, pytest.param(3, marks=pytest.mark.slow)])
    def test_value_and_gradient_in_theta_are_those_of_log_p_or_of_the_last_level(self, k, levels):
        model, made = linear_gaussian(1), objective(f"mlmc levels={levels}")
        found = estimates(made, model, X, k, data=50, replicates=300).generative
        torch.manual_seed(0)
        with torch.no_grad():
            values = torch.stack([-made(model, X.expand(50, -1), k).loss for _ in range(300)])
        mean, error = mean_and_error(values)
        truth = model.log_marginal(X)
        if levels == 2:
            last = reference(iwae_bound, lambda w: w, model, X, 4 * k, data=50, replicates=300).generative
            bound, bound_error = mean_and_error(iwae_bound(model.log_weights(X.expand(100_000, -1), 4 * k)))
            assert compare(found, last).agrees
            assert abs(mean - bound) < 4 * (error + bound_error)
        else:
            assert compare(found, gradient_of(model, (-truth.sum()).backward).generative).agrees
            assert abs(mean - truth.item()) < 4 * error
        plain = iwae_bound(model.log_weights(X.expand(20_000, -1), k)).mean().item()
        assert plain < mean - 6 * error  # so the test tells S from L_k

    @pytest.mark.parametrize("layers", [1, 2])
    def test_phi_is_unbiased_for_the_wake_update_with_the_true_posterior(self, layers):
        model, made = sigmoid_belief(layers), objective("mlmc levels=null")
        log_q, log_p = every_state(model)
        inclusive = (log_p.softmax(0).detach() * log_q).sum()
        exact = gradient_of(model, (-inclusive).backward).inference
        found = estimates(made, model, BINARY_X, 1, data=100, replicates=300).inference
        assert compare(found, exact).agrees
        wake = estimates(objective("rws"), model, BINARY_X, 1, data=100, replicates=300).inference
        assert not compare(wake, exact).agrees

    def test_levels_are_drawn_with_the_probability_it_divides_by(self):
        uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
        for levels in (1, 3, 10, "null"):
            made = objective(f"mlmc levels={levels}")
            drawn = torch.tensor([made._level(u) for u in uniforms.tolist()])
            for level in range(1, 11 if levels == "null" else levels + 1):
                expected = made._probability(level)
                assert (drawn == level).double().mean().item() == pytest.approx(expected, abs=2e-5)
            assert made._level(1.0) == 1
            assert levels == "null" or made._level(1e-300) == levels

    def test_samples_it_takes_are_4_4_k_on_average(self):
        made = objective("mlmc levels=null")
        assert sum(2**j * made._probability(j) for j in range(1, 200)) == pytest.approx(4.41, abs=0.01)

    @pytest.mark.slow
    @pytest.mark.parametrize("k", [1, 5])
    def test_its_variance_times_its_samples_is_below_sumo_s(self, k):
        model = linear_gaussian(1)
        mlmc, sumo = (
            estimates(objective(s), model, X, k, data=1, replicates=1000).generative.var(0).sum()
            for s in ("mlmc levels=null", "sumo")
        )
        assert 4.41 * k * mlmc < (k + 5) * sumo / 1.5

    def test_corrections_fall_fast_enough_for_a_finite_variance(self):
        """E Δ_j² falls by more than the ratio of probabilities, 2^−1.5, does: near 4^−1 where weights have moments."""
        torch.manual_seed(0)
        log_w = linear_gaussian(1).log_weights(X.expand(20_000, -1), 64).detach()
        squares = []
        for size in (8, 16, 32, 64):
            halves = torch.stack([iwae_bound(half) for half in log_w[:size].chunk(2)])
            squares.append((iwae_bound(log_w[:size]) - halves.mean(0)).square().mean().item())
        for larger, smaller in itertools.pairwise(squares):
            assert smaller / larger < 0.31


class TestUStatistic:
    @pytest.mark.parametrize("spec", ["ustat groups=3", "ustat groups=3 permutations=null"])
    def test_its_variance_is_below_that_of_miwae_from_as_many_samples(self, spec):
        model = linear_gaussian(1)
        found, blocks = (
            estimates(objective(s), model, X, 3, data=50, replicates=400) for s in (spec, "miwae groups=3")
        )
        assert found.inference.var(0).sum() < blocks.inference.var(0).sum() / 1.1
        assert found.generative.var(0).sum() < blocks.generative.var(0).sum()

    def test_complete_it_is_the_mean_over_all_sets(self):
        model, made = linear_gaussian(1), objective("ustat groups=2 permutations=null")
        estimate = seeded(made, model, 3)
        torch.manual_seed(1)
        log_w = model.log_weights(X, 6)
        sets = [iwae_bound(log_w[list(chosen)]) for chosen in itertools.combinations(range(6), 3)]
        torch.testing.assert_close(-estimate.loss, torch.stack(sets).mean())

    def test_with_one_order_it_is_miwae(self):
        model = linear_gaussian(2)
        found, expected = (
            estimates(objective(s), model, X, 3, replicates=1)
            for s in ("ustat groups=4 permutations=1", "miwae groups=4")
        )
        for part in ("generative", "inference"):
            torch.testing.assert_close(getattr(found, part), getattr(expected, part))

    def test_too_many_sets_are_refused(self):
        with pytest.raises(UserError, match=r"^k=10: expected at most 10000 sets of k of groups·k samples"):
            objective("ustat permutations=null")(linear_gaussian(1), X, 10)


class TestJVIDReG:
    @pytest.mark.parametrize("order", [1, 2])
    def test_theta_is_that_of_jvi_and_the_variance_in_phi_is_lower(self, order):
        model = linear_gaussian(1)
        found, plain = (estimates(objective(f"{name} order={order}"), model, X, 8) for name in ("jvi_dreg", "jvi"))
        torch.testing.assert_close(found.generative, plain.generative)
        assert found.inference.var(0).sum() < plain.inference.var(0).sum() / 2

    def test_its_large_coefficients_cancel_in_fp32_too(self):
        model = linear_gaussian(1, exact=True)
        log_p = model.log_marginal(X).mean().float()
        found = objective("jvi_dreg order=2")(model.float(), X.float(), 50)
        torch.testing.assert_close(-found.loss, log_p, rtol=1e-6, atol=0)
        assert found.inference_loss.abs() < 1e-9  # Σ_j c_j / (k − j) = 0


class TestVarGrad:
    def test_phi_is_the_gradient_of_half_the_variance_of_log_w(self):
        model = linear_gaussian(2)
        found = gradient_of(model, lambda: seeded(objective("vargrad"), model, 5).loss.backward()).inference
        torch.manual_seed(1)
        variance = model.draw(X, 5, "score").log_w.var(0).mean()
        torch.testing.assert_close(found, gradient_of(model, (variance / 2).backward).inference)

    def test_it_vanishes_at_the_exact_posterior_in_phi(self):
        model = linear_gaussian(2, exact=True)
        found = estimates(objective("vargrad"), model, X, 3, data=5, replicates=1)
        assert found.inference.abs().max() < 1e-10
        assert found.generative.abs().max() > 0.01


class TestDisARM:
    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize(
        ("bound", "rival", "rivals_k", "ratio"), [("elbo", "vargrad", 4, 1.0), ("iwae", "vimco", 2, 2.0)]
    )
    def test_its_variance_is_below_that_of_score_functions(self, bound, rival, rivals_k, ratio, layers):
        """With "elbo", of k pairs against 2·k samples; with "iwae", of the same L_k, by more than a pair costs."""
        model = sigmoid_belief(layers)
        found = estimates(objective(f"disarm bound={bound}"), model, BINARY_X, 2, data=50, replicates=300).inference
        other = estimates(objective(rival), model, BINARY_X, rivals_k, data=50, replicates=300).inference
        assert found.var(0).sum() < other.var(0).sum() / ratio

    def test_other_latents_are_refused(self):
        with pytest.raises(UserError, match="DisARM: expected a model with Bernoulli latents"):
            objective("disarm")(linear_gaussian(1), X, 3)

    @pytest.mark.parametrize("k", [1, 4])
    def test_gradient_reaches_every_parameter_and_is_finite_where_weights_are_far_apart(self, k):
        torch.manual_seed(0)
        model = sigmoid_belief(2)
        with torch.no_grad():
            model.decoder[0].heads[0].weight.mul_(300)
        estimate = objective("disarm")(model, BINARY_X.expand(500, -1), k)
        estimate.backward(model)
        assert estimate.log_w.shape == (k, 500)
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters())
