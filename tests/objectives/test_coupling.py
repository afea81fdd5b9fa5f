"""Samples that depend on each other: each has its own distribution, and what an objective claims still holds."""

import pytest
import scipy.stats
import torch
from helpers.objectives import ALL, by_default, check_gradient, mean_and_error, objective
from helpers.oracle import (
    BINARY_X,
    PIXELS,
    LinearGaussian,
    X,
    compare,
    estimates,
    linear_gaussian,
    reference,
    sigmoid_belief,
)

from iwae_lab.bounds import iwae_bound
from iwae_lab.console.errors import UserError
from iwae_lab.models.distributions import Bernoulli, Gaussian
from iwae_lab.objectives.coupling import COUPLINGS

COUPLED = [name for name in COUPLINGS if name != "iid"]
COUPLABLE = [spec for spec in ALL if objective(spec).couplable]
NORMAL = Gaussian(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
UNIFORM = Bernoulli(torch.zeros(2, dtype=torch.float64))


def correlations(columns: torch.Tensor) -> torch.Tensor:
    """Between different columns of [rows, columns], times √rows: standard normal where they are independent."""
    found = torch.corrcoef(columns.T) * len(columns) ** 0.5
    return found[~torch.eye(len(found), dtype=torch.bool)]


def bounds(by: str, model: LinearGaussian, k: int) -> torch.Tensor:
    """L̂_k of 20,000 data."""
    torch.manual_seed(0)
    with torch.no_grad():
        return iwae_bound(model.log_weights(X.expand(20_000, -1), k, COUPLINGS[by]))


class TestNoise:
    @pytest.mark.parametrize("k", [1, 5, 8])
    @pytest.mark.parametrize("by", COUPLED)
    @pytest.mark.parametrize(("family", "distribution"), [(NORMAL, "norm"), (UNIFORM, "uniform")])
    def test_each_sample_has_the_right_distribution_and_independent_units_layers_and_data(
        self, family, distribution, by, k
    ):
        torch.manual_seed(0)
        levels = [COUPLINGS[by](family, level, (k, 5_000, 2)) for level in (0, 1)]
        for i in range(k):
            units = torch.cat([level[i] for level in levels], dim=1)  # [data, units of both layers]
            for unit in units.T:
                assert scipy.stats.kstest(unit.numpy(), distribution).pvalue > 1e-4
            centred = units - units.mean(0)
            assert correlations(centred).abs().max() < 4.5
            assert correlations(centred.square()).abs().max() < 4.5
            assert correlations(torch.stack([centred[:-1, 0], centred[1:, 0]], 1)).abs().max() < 4.5

    @pytest.mark.parametrize("family", [NORMAL, UNIFORM])
    def test_antithetic_samples_are_mirrored_in_pairs_and_an_odd_one_is_alone(self, family):
        noise = COUPLINGS["antithetic"](family, 0, (5, 300, 2))
        total = noise[:2] + noise[2:4]
        torch.testing.assert_close(total, torch.full_like(total, float(family is UNIFORM)))
        assert abs(scipy.stats.pearsonr(noise[4].flatten(), noise[0].flatten()).statistic) < 0.2

    @pytest.mark.parametrize("level", [0, 1])
    def test_sobol_points_are_spread_one_to_an_interval(self, level):
        noise = COUPLINGS["rqmc"](UNIFORM, level, (16, 50, 2))
        torch.testing.assert_close((16 * noise).floor().sort(0).values[:, 7, 1], torch.arange(16.0).double())

    def test_sobol_points_are_finite_in_fp32(self):
        torch.manual_seed(0)
        zeros = torch.zeros(50)
        assert all(COUPLINGS["rqmc"](Gaussian(zeros, zeros), 0, (64, 500, 50)).isfinite().all() for _ in range(3))


class TestObjectives:
    @pytest.mark.parametrize("by", [pytest.param("antithetic", marks=pytest.mark.slow), "rqmc"])
    @pytest.mark.parametrize("spec", by_default(COUPLABLE))
    def test_gradient_is_that_of_what_it_claims_to_maximise(self, spec, by):
        check_gradient(spec, layers=2, k=3, noise=by)

    @pytest.mark.parametrize("by", COUPLED)
    @pytest.mark.parametrize("spec", [spec for spec in COUPLABLE if objective(spec).is_bound])
    def test_a_bound_is_still_below_log_p(self, spec, by):
        made, model = objective(spec), linear_gaussian(2)
        made.couple(by)
        torch.manual_seed(0)
        log_w = made(model, X.expand(2000, -1), 4).log_w.detach()
        for bound in (iwae_bound, made.target):
            if (values := bound(log_w)) is not None:
                mean, error = mean_and_error(values.detach())
                assert mean < model.log_marginal(X).item() + 4 * error

    @pytest.mark.parametrize("k", [4, 16])
    @pytest.mark.parametrize("layers", [1, 2])
    def test_spread_points_tighten_the_bound_and_lower_its_variance(self, layers, k):
        iid, rqmc = (bounds(by, linear_gaussian(layers), k) for by in ("iid", "rqmc"))
        assert rqmc.mean() > iid.mean() + 4 * mean_and_error(iid)[1]
        assert rqmc.var() < iid.var() / 1.2

    def test_mirrored_samples_tighten_the_bound_of_an_encoder_that_is_off_centre_and_no_other(self):
        centred, off = linear_gaussian(1), linear_gaussian(1)
        with torch.no_grad():
            off.encoder[0].bias.add_(0.5)
        for model, sign in ((centred, -1), (off, 1)):
            iid, antithetic = (bounds(by, model, 4) for by in ("iid", "antithetic"))
            assert sign * (antithetic.mean() - iid.mean()) > 4 * mean_and_error(iid)[1]

    def test_score_function_and_doubly_reparameterised_gradients_would_be_biased(self):
        """Why `couplable` isn't true of all: their samples drawn in pairs, against the gradient of the same bound."""
        model = linear_gaussian(1)
        sizes = {"data": 150, "replicates": 100, "in_one_call": True}
        for spec in ("dreg", "reinforce", "vimco"):
            made = objective(spec)
            assert not made.couplable
            with pytest.MonkeyPatch.context() as patch:
                draw = LinearGaussian.draw
                patch.setattr(
                    LinearGaussian, "draw",
                    lambda self, x, k, gradient, draw=draw: draw(self, x, k, gradient, COUPLINGS["antithetic"]),
                )  # fmt: skip
                found = estimates(made, model, X, 2, **sizes).inference
            coupled = reference(iwae_bound, lambda w: w, model, X, 2, noise=COUPLINGS["antithetic"], **sizes).inference
            assert not compare(found, coupled).agrees, spec

    @pytest.mark.parametrize("spec", sorted(set(ALL) - set(COUPLABLE)))
    def test_others_refuse_by_name(self, spec):
        made = objective(spec)
        made.couple("iid")
        with pytest.raises(UserError, match=f"noise=rqmc: {type(made).__name__} needs independent samples"):
            made.couple("rqmc")

    @pytest.mark.parametrize("by", COUPLED)
    def test_discrete_latents_are_coupled_too(self, by):
        model = sigmoid_belief(2)
        truth = torch.logsumexp(model.log_joint(BINARY_X, all_states()), 0).item()
        made = objective("rws")
        made.couple(by)
        torch.manual_seed(0)
        log_w = made(model, BINARY_X.expand(20_000, -1), 4).log_w.detach()
        mean, error = mean_and_error(log_w.exp().mean(0))
        assert abs(mean - torch.tensor(truth).exp()) < 4 * error


def all_states() -> list[torch.Tensor]:
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * (PIXELS + 1)).unsqueeze(1)
    return list(bits.split([PIXELS, 1], dim=-1))


def test_from_the_command_line(cli, tiny):
    done = cli("train.py", *tiny, "schedule.epochs=1", "noise=rqmc", "objective=dreg")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: noise=rqmc: DReG needs independent samples of an image; expected iid"
    done = cli("train.py", *tiny, "schedule.epochs=1", "noise=sobol")
    assert "noise=sobol: expected one of iid, antithetic, rqmc" in done.stderr
    done = cli("train.py", *tiny, "schedule.epochs=1", "noise=rqmc", "objective=iwae")
    assert done.returncode == 0, done.stderr
