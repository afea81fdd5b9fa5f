"""Annealed importance sampling against models whose log p(x) is known."""

from dataclasses import replace

import pytest
import torch
from helpers.oracle import X, linear_gaussian, sigmoid_belief

from iwae_lab.bounds import ess, iwae_bound
from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.ais import Annealing, ais, bidirectional, estimated_seconds, reverse_ais


def z_score(values):
    """Of the mean of values whose expectation is claimed to be 1."""
    return ((values.mean() - 1) / (values.std() / len(values) ** 0.5)).item()


STARTS = ["q", "prior"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    "layers", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_both_bounds_close_in_on_log_p(layers, start):
    model = linear_gaussian(layers)
    gaps = []
    for temperatures in (2, 40):
        found = bidirectional(model, 300, Annealing(2, temperatures, 2, start=start))
        truth = model.log_marginal(found.images).detach()
        below, above = truth - found.lower.bound, found.upper.bound - truth
        torch.testing.assert_close(below + above, found.gap)
        for gap in (below, above):
            assert gap.mean() > -4 * gap.std() / len(gap) ** 0.5
        gaps.append((below.mean().item(), above.mean().item()))
    assert all(few > 0.05 and few > 4 * many for few, many in zip(*gaps, strict=True)), gaps


@pytest.mark.parametrize("how", [
    Annealing(1, 3, 2), Annealing(3, 3, 2), Annealing(2, 3, 2, start="prior"), Annealing(2, 4, 1, schedule="linear"),
])  # fmt: skip
@pytest.mark.parametrize("layers", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_w_is_unbiased_for_p_and_its_reverse_for_one_over_p(layers, how):
    """So also with a poor encoder and few temperatures, whatever the chains' number, start and schedule."""
    model = linear_gaussian(layers)
    lower = ais(model, X.expand(2000, -1), how, rows=10_000).bound
    assert abs(z_score((lower - model.log_marginal(X).detach()).exp())) < 4
    torch.manual_seed(0)
    with torch.no_grad():
        x, z = model.sample_joint(1000)
    how = replace(how, temperatures=3 * layers**2)  # fewer, and 1/w has no variance
    upper = reverse_ais(model, x, z, how, rows=10_000).bound
    assert abs(z_score((model.log_marginal(x).detach() - upper).exp())) < 4


@pytest.mark.parametrize("layers", [1, 2])
def test_exact_at_the_exact_posterior(layers):
    model = linear_gaussian(layers, exact=True)
    found = bidirectional(model, 5, Annealing(2, 3))
    for annealed in (found.lower, found.upper):
        torch.testing.assert_close(annealed.bound, model.log_marginal(found.images).detach())
        torch.testing.assert_close(annealed.ess, torch.full((5,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("start", STARTS)
def test_one_temperature_is_importance_sampling(start):
    """Then nothing moves: log w is the importance weight of the start's samples."""
    model, x = linear_gaussian(2), X.expand(400, -1)
    found = ais(model, x, Annealing(50, 1, start=start))
    assert found.acceptance.isnan().all()
    torch.manual_seed(0)
    with torch.no_grad():
        if start == "q":
            log_w = model.log_weights(x, 50)
        else:
            _, z = model.sample_joint(50 * 400)
            log_w = model.decoder[0](z[0].view(50, 400, 2)).log_prob(x)
    for a, b in ((found.bound, iwae_bound(log_w)), (found.ess, ess(log_w))):
        assert abs(a.mean() - b.mean()) < 4 * ((a.var() + b.var()) / 400) ** 0.5


def test_more_annealing_gives_more_effective_chains_and_the_acceptance_that_is_aimed_at():
    model, x = linear_gaussian(2), 4 * X.expand(20, -1)
    few, many = (ais(model, x, Annealing(8, temperatures)) for temperatures in (2, 100))
    assert 1 <= few.ess.mean() < many.ess.mean() - 1 < 7
    assert abs(many.acceptance.mean() - 0.8) < 0.1
    assert few.acceptance.min() >= 0 and few.acceptance.max() <= 1
    assert many.se < few.se


def test_the_same_seed_gives_the_same_and_leaves_no_trace():
    model, how = linear_gaussian(2), Annealing(2, 3)
    torch.manual_seed(0)
    first, again, other = (bidirectional(model, 3, how, seed=seed) for seed in (1, 1, 2))
    after = torch.rand(3)
    torch.manual_seed(0)
    torch.testing.assert_close(after, torch.rand(3), rtol=0, atol=0)
    assert torch.equal(first.lower.bound, again.lower.bound)
    assert torch.equal(first.upper.bound, again.upper.bound)
    assert not torch.equal(first.lower.bound, other.lower.bound)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("rows", [1, 9, 1000])
def test_moves_no_more_chains_at_a_time_than_it_may_and_says_how_far_it_is(rows, monkeypatch):
    model, how, moved, done = linear_gaussian(1), Annealing(4, 5), [], []
    draw = model.draw
    monkeypatch.setattr(model, "draw", lambda x, k, **kw: (moved.append(k * len(x)), draw(x, k, **kw))[1])
    bidirectional(model, 7, how, rows=rows, progress=done.append)
    assert max(moved) <= max(rows, 4)
    assert done == sorted(done) and done[-1] == pytest.approx(1) and done[0] < 0.2


def test_the_time_it_will_take_is_known_before(monkeypatch):
    """On a clock that counts samples weighed, of which the first ones take longer."""
    model, x, how = linear_gaussian(1), X.expand(50, -1), Annealing(8, 12, 3)
    draw, weighed = model.draw, []
    monkeypatch.setattr(model, "draw", lambda x, k, **kw: (weighed.append(k * len(x)), draw(x, k, **kw))[1])
    estimate = estimated_seconds(model, x, how, rows=160, clock=lambda: sum(weighed) + 1e5 * min(len(weighed), 3))
    weighed.clear()
    ais(model, x, how, rows=160)
    assert estimate == pytest.approx(sum(weighed), rel=0.1)


@pytest.mark.parametrize(("settings", "named"), [
    ({"chains": 0}, "chains=0"), ({"temperatures": 0}, "temperatures=0"), ({"leapfrog_steps": 0}, "leapfrog_steps=0"),
    ({"start": "posterior"}, "start=posterior: expected one of q, prior"),
    ({"schedule": "cosine"}, "schedule=cosine: expected one of sigmoid, linear"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, named):
    with pytest.raises(UserError, match=f"^{named}"):
        Annealing(**settings)


def test_temperatures_are_evenly_spaced_or_a_sigmoid_between_minus_and_plus_four():
    assert Annealing(temperatures=4, schedule="linear").betas() == [0, 0.25, 0.5, 0.75, 1]
    assert Annealing(temperatures=4).betas() == pytest.approx([0, 0.105, 0.5, 0.895, 1], abs=1e-4)


@pytest.mark.parametrize("start", STARTS)
def test_discrete_latents_are_refused(start):
    with pytest.raises(UserError, match="SigmoidBeliefNetwork has discrete latents"):
        bidirectional(sigmoid_belief(1), 3, Annealing(start=start))
