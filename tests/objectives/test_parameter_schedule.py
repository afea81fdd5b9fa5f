"""Parameters of objectives that change with the epoch, and the weighted KL that warms up by them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT, records
from helpers.objectives import FOUND, objective
from helpers.oracle import X, compare, estimates, gradient_of, linear_gaussian, reference
from omegaconf import DictConfig, OmegaConf
from torch.distributions import Normal, kl_divergence

from iwae_lab.bounds import elbo
from iwae_lab.console.errors import UserError
from iwae_lab.objectives.base import Objective
from iwae_lab.objectives.parameter_schedule import ParameterSchedule
from iwae_lab.runs.experiment import resolve
from iwae_lab.runs.record import read_metrics
from iwae_lab.runs.run import run
from iwae_lab.runs.trained import TrainedRun

ANNEALED = [
    (name, key)
    for name in FOUND
    for key, value in OmegaConf.load(ROOT / f"conf/objective/{name}.yaml").items()
    if isinstance(value, float) and isinstance(getattr(objective(name), str(key), None), float)
]


def test_the_parameters_meant_to_be_annealed_are_found() -> None:
    assert {("beta_vae", "beta"), ("ciwae", "beta"), ("renyi", "alpha"), ("vr_iwae", "alpha")} <= set(ANNEALED)


def test_it_goes_linearly_from_one_value_to_the_other_and_stays_there() -> None:
    schedule = ParameterSchedule(1.0, 0.0, 4)
    assert [schedule.value(done) for done in range(7)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]
    annealed = objective("beta_vae")
    annealed.anneal("beta", ParameterSchedule(0, 1, 4))
    annealed.begin_epoch(1)
    assert annealed.beta == 0.25


@pytest.mark.parametrize(("name", "key"), ANNEALED)
def test_in_each_epoch_the_estimate_is_that_of_the_constant_value(name: str, key: str) -> None:
    """0.5 takes no rounding, and 0 and 1 are where formulas change."""
    model = linear_gaussian(2)
    schedule = ParameterSchedule(0.5 if name == "reinforce" else 1.0, 0.0, 2)
    for epoch in (3, 0, 1):
        annealed, constant = objective(name), objective(f"{name} {key}={schedule.value(epoch)}")
        annealed.anneal(key, schedule)
        annealed.begin_epoch(epoch)
        found, expected = (estimates(made, model, X, 4, data=5, replicates=1) for made in (annealed, constant))
        torch.testing.assert_close(found.generative, expected.generative, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.inference, expected.inference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "key"), ANNEALED)
def test_code_that_was_compiled_sees_the_value_of_the_epoch(name: str, key: str) -> None:
    model, made = linear_gaussian(1), objective(name)
    if not made.compilable:
        pytest.skip("it is never compiled")
    made.anneal(key, ParameterSchedule(1.0, 0.0, 2))
    torch.compiler.reset()

    def loss(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return made(model, x, 4).loss

    def traced(x: torch.Tensor) -> torch.Tensor:
        return made(model, x, 4).loss

    compiled = torch.compile(traced, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for epoch in range(3):
            made.begin_epoch(epoch)
            torch.manual_seed(0)
            found = compiled(X.expand(3, -1))
            torch.testing.assert_close(found, loss(X.expand(3, -1)))


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0, 3.0])
def test_beta_weighs_the_divergence_of_posterior_from_prior(beta: float) -> None:
    model = linear_gaussian(1)
    q = model.encoder[0](X)
    kl = kl_divergence(Normal(q.mean, q.log_std.exp()), Normal(torch.zeros(2), torch.ones(2))).sum()
    weighted = gradient_of(model, lambda: ((beta - 1) * kl).backward())
    found, plain = estimates(objective(f"beta_vae beta={beta}"), model, X, 3), reference(elbo, lambda w: w, model, X, 3)
    assert compare(found.generative, plain.generative + weighted.generative).agrees
    assert compare(found.inference, plain.inference + weighted.inference).agrees
    assert objective(f"beta_vae beta={beta}").is_bound == (beta >= 1)


WARM_UP = [
    "objective=beta_vae",
    "objective.beta={from: 0, to: 1, epochs: 3}",
    "schedule.epochs=4",
    "schedule.batch_size=1000",
]


def test_a_run_warms_up_resumes_where_it_stopped_and_is_another_than_a_constant_one(
    composed: Callable[..., DictConfig], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def begin_epoch(self: Objective, done: int, real: Callable[..., None] = Objective.begin_epoch) -> None:
        if len(seen) == 2:
            seen.append(None)
            raise KeyboardInterrupt
        real(self, done)
        seen.append(float(self.beta))

    whole = run(composed(*tiny, *WARM_UP, f"runs_dir={tmp_path / 'whole'}"))
    monkeypatch.setattr(Objective, "begin_epoch", begin_epoch)
    with pytest.raises(SystemExit):
        run(composed(*tiny, *WARM_UP))
    record = run(composed(*tiny, *WARM_UP))
    assert record.status == "finished"
    assert seen[:3] == [0.0, pytest.approx(1 / 3), None]
    assert seen[-2:] == [pytest.approx(2 / 3), 1.0]
    assert record.run_id == whole.run_id
    curves = [read_metrics(tmp_path / place / record.run_id) for place in ("whole", "runs")]
    assert [row["train/loss"] for row in curves[0]] == [row["train/loss"] for row in curves[1]]
    assert record.config["objective"]["beta"] == {"from": 0, "to": 1, "epochs": 3}
    assert record.run_id != resolve(composed(*tiny, "objective=beta_vae", *WARM_UP[2:])).run_id
    assert float(TrainedRun.read(tmp_path / "runs" / record.run_id, []).experiment.objective.beta) == 1.0


def test_what_is_no_schedule_is_refused_in_a_line(cli: Callable[..., object], tiny: list[str], tmp_path: Path) -> None:
    done = cli("train.py", *tiny, "objective=renyi", "objective.alpha={from: 1, to: 0}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: objective.alpha={'from': 1, 'to': 0}: expected {from: A, to: B, epochs: N}")
    assert len(done.stderr.splitlines()) == 1
    assert not records(tmp_path / "runs")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=renyi", "objective.alpha={from: 1, to: 0, epochs: 0}"], "an integer N of at least 1"),
        (["objective=renyi", "objective.alpha={from: 1, to: 0, epochs: 1.5}"], "an integer N of at least 1"),
        (["objective=renyi", "objective.alpha={from: a, to: 0, epochs: 2}"], "{from: A, to: B, epochs: N}"),
        (["objective=renyi", "objective.alpha={to: 0, epochs: 2}"], "objective.alpha={'to': 0, 'epochs': 2}: expected"),
        (
            ["objective=vr_iwae", "objective.alpha={from: 0, to: 2, epochs: 2}"],
            "objective.alpha=2.0: expected a number",
        ),
        (
            ["objective=vr_iwae", "objective.alpha={from: 2, to: 0, epochs: 2}"],
            "objective.alpha=2.0: expected a number",
        ),
        (["objective=miwae", "objective.groups={from: 2, to: 5, epochs: 2}"], "objective.groups="),
        (
            ["objective=ciwae", "objective.learned=true", "objective.beta={from: 0.8, to: 0.2, epochs: 2}"],
            "this parameter can't change with the epoch",
        ),
        (["optimizer.beta1={from: 1, to: 0, epochs: 2}"], "optimizer.beta1="),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(
    composed: Callable[..., DictConfig], overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(composed(*overrides))
