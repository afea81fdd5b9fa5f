"""Effective samples, KL of units and gradient signal-to-noise ratios against the oracle."""

import re

import pytest
import torch
from helpers.oracle import X, linear_gaussian, sigmoid_belief

from iwae_lab.evaluation.diagnostics import KL_THRESHOLD, SignalToNoise, diagnose, gradient_snr
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.dreg import DReG
from iwae_lab.objectives.iwae import IWAE
from iwae_lab.objectives.reinforce import Reinforce
from iwae_lab.runs.run import run


def test_every_sample_counts_at_the_exact_posterior_and_few_do_far_from_it():
    exact, near = linear_gaussian(2, exact=True), linear_gaussian(2)
    torch.testing.assert_close(diagnose(exact, X, 50).ess, torch.tensor([50.0], dtype=torch.float64))
    effective = diagnose(near, torch.cat([X, 10 * X]), 50).ess
    assert 1 <= effective[1] < effective[0] < 49


def test_kl_of_a_gaussian_unit_is_its_closed_form():
    model = linear_gaussian(1)
    mean, log_std = model.encoder[0](X)
    closed = 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std
    torch.testing.assert_close(diagnose(model, X, 20_000).kl[0], closed[0].detach(), rtol=0.03, atol=0.01)


@pytest.mark.parametrize("model", [linear_gaussian(3), sigmoid_belief(2)], ids=["gaussian", "bernoulli"])
def test_kl_of_units_sums_to_the_kl_of_the_latents(model):
    """E log q(z | x) − log p(z), with log p(z) = log p(x, z) − log p(x | z_1)."""
    x = torch.ones(1, 2, dtype=torch.float64)
    found = diagnose(model, x, 5000)
    torch.manual_seed(0)
    with torch.no_grad():
        draw = model.draw(x, 5000, "score")
        log_x = model.decoder[0](draw.z[0].flatten(0, 1)).log_prob(x).view(5000, 1)
    expected = (draw.log_q - draw.log_p + log_x).mean().item()
    assert sum(kl.sum().item() for kl in found.kl) == pytest.approx(expected, rel=0.1)


def test_a_unit_that_ignores_the_image_has_no_kl():
    model = HierarchicalModel([3], [[4]], mean_image=torch.full((5,), 0.5))
    with torch.no_grad():
        for head in model.encoder[0].heads:
            head.weight[1] = 0
    kl = diagnose(model, torch.eye(5), 50).kl[0]
    assert kl[1] == pytest.approx(0, abs=1e-6)
    assert (kl[[0, 2]] > 0.01).all()
    assert KL_THRESHOLD == 0.01


def test_signal_of_phi_falls_with_k_for_iwae_and_rises_for_dreg():
    """Rainforth et al. 2018, theorem 1: O(1/√k) for φ and O(√k) for θ. Tucker et al. 2019: O(√k) for DReG."""
    model, x = linear_gaussian(1), X.expand(50, -1)
    snr = {(o, k): gradient_snr(made, model, x, k, draws=200) for o, made in OBJECTIVES.items() for k in (4, 64)}
    ratio = {
        (o, part): getattr(snr[o, 64], part).overall / getattr(snr[o, 4], part).overall
        for o in OBJECTIVES
        for part in ("generative", "inference")
    }
    assert ratio["iwae", "inference"] < 0.5
    assert ratio["dreg", "inference"] > 2
    assert ratio["iwae", "generative"] > 2
    assert ratio["dreg", "generative"] > 2


OBJECTIVES = {"iwae": IWAE(), "dreg": DReG()}


def test_signal_to_noise_of_known_gradients():
    torch.manual_seed(0)
    draws = 2 + 3 * torch.randn(10_000, 4, dtype=torch.float64)
    snr = SignalToNoise.of(draws.sum(0), draws.square().sum(0), len(draws))
    assert snr.overall == pytest.approx(2 / 3, rel=0.05)
    for noise in (draws[:50] - 2, 3 * torch.randn(5, 4000, dtype=torch.float64)):  # uncorrected 0.14 and 0.45
        assert SignalToNoise.of(noise.sum(0), noise.square().sum(0), len(noise)).overall < 0.2


def test_measuring_leaves_no_trace():
    model, objective = linear_gaussian(1), Reinforce()
    torch.manual_seed(0)
    gradient_snr(objective, model, X, 3)
    diagnose(model, X, 3)
    after = torch.rand(3)
    torch.manual_seed(0)
    torch.testing.assert_close(after, torch.rand(3), rtol=0, atol=0)
    assert objective.baseline.isnan()
    assert all(p.grad is None for p in model.parameters())


def test_while_training_also_with_discrete_latents(composed, tiny):
    discrete = ["model=sigmoid_belief_two", "model.latents=[5,3]", "model.hidden=[[],[]]", "objective=vimco"]
    metrics = run(composed(*tiny, *discrete, "schedule.epochs=1", "diagnostics=true")).metrics
    assert metrics["test/nll"] < 300
    for key in ("ess", "kl/1", "kl/2", "snr/generative", "snr/inference"):
        assert metrics[f"diagnostics/{key}"] > 0


def test_of_a_finished_run_from_the_command_line(composed, cli, tiny, tmp_path):
    """One process: effective samples, KL and SNR."""
    layers = ["model=two_layer", "model.latents=[4,2]", "model.hidden=[[8],[8]]"]
    record = run(composed(*tiny, *layers, "schedule.epochs=1", "objective=ciwae", "objective.learned=true"))
    folder = tmp_path / "runs" / record.run_id
    kept = (folder / "result.json").read_text()
    done = cli("-m", "iwae_lab.evaluate", str(folder), "diagnostics=true")
    assert done.returncode == 0, done.stderr
    assert (folder / "result.json").read_text() == kept
    rows = dict(re.findall(r"│ (.*?) +│ (.*?) +│", done.stdout))
    assert 1 <= float(rows["effective samples of 20"].split()[0]) <= 20
    for level, units in ((1, 4), (2, 2)):
        assert re.match(rf"[\d.]+ nats; [1-{units}] of {units} units above", rows[f"KL of layer {level}"])
    for part in "θφ":
        assert float(rows[f"gradient SNR, ciwae k=3, {part}"]) > 0
