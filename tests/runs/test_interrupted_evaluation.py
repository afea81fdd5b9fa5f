"""An evaluation that is interrupted goes on where it was, and ends with the numbers it would have had."""

import contextlib
import dataclasses
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.commands import TINY

from iwae_lab import evaluate
from iwae_lab.console.signals import WARNINGS
from iwae_lab.evaluate import measured_again
from iwae_lab.evaluation.ais import bidirectional
from iwae_lab.evaluation.annealing import Annealing
from iwae_lab.evaluation.gaps import encoder_gaps
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.evaluation.standard import standard_results
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.compiling import Choice, Compiled
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.runs import interrupted_evaluation
from iwae_lab.runs import measure as measuring
from iwae_lab.runs.experiment import resolve
from iwae_lab.runs.external import KEYS, measure_external
from iwae_lab.runs.run import run
from iwae_lab.runs.trained import TrainedRun
from iwae_lab.runs.weights import ScaledGaussian


class Interrupted(Exception):
    pass


def until(fraction: float) -> Callable[[float], None]:
    def progress(done: float) -> None:
        if done >= fraction:
            raise Interrupted

    return progress


@pytest.fixture
def model() -> HierarchicalModel:
    torch.manual_seed(0)
    model = HierarchicalModel([4, 3], [[6], [5]], mean_image=torch.rand(12))
    with torch.no_grad():
        for layer in model.encoder:
            layer.heads[0].weight[0] = 0  # inactive
    return model


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each call of a model weighs."""
    sizes: list[int] = []
    draw = LatentVariableModel.draw
    monkeypatch.setattr(
        LatentVariableModel,
        "draw",
        lambda self, x, k, *given, **named: (sizes.append(k * len(x)), draw(self, x, k, *given, **named))[1],
    )
    return sizes


def images(n: int, seed: int = 1) -> torch.Tensor:
    return (torch.rand(n, 12, generator=torch.Generator().manual_seed(seed)) < 0.4).byte()


def test_wherever_bounds_are_interrupted_no_image_is_computed_twice(model, weighed):
    sets = images(20), images(18, 2), images(19, 3)
    whole = standard_results(model, *sets, 300)
    assert not torch.equal(whole.active_only, whole.test.bounds[300])
    alone = sum(weighed)
    weighed.clear()
    kept = {}
    for fraction in (0.1, 0.3, 0.55, 0.65, 0.8, 0.95):
        with pytest.raises(Interrupted):
            standard_results(model, *sets, 300, progress=until(fraction), kept=kept)
    found = standard_results(model, *sets, 300, kept=kept)
    assert found.metrics() == whole.metrics()
    assert all(torch.equal(a, b) for a, b in zip(found.per_image().values(), whole.per_image().values(), strict=True))
    assert sum(weighed) == alone


@pytest.mark.parametrize("rows", [4, 100])
def test_wherever_chains_are_interrupted_no_more_than_a_move_is_made_twice(model, weighed, rows):
    how, fractions = Annealing(chains=2, temperatures=12, leapfrog_steps=2), (0.02, 0.1, 0.45, 0.5, 0.7, 0.99)
    whole = bidirectional(model, 3, how, rows=rows)
    alone = sum(weighed)
    weighed.clear()
    kept = {}
    for fraction in fractions:
        with pytest.raises(Interrupted):
            bidirectional(model, 3, how, rows=rows, progress=until(fraction), kept=kept)
    found = bidirectional(model, 3, how, rows=rows, kept=kept)
    for a, b in ((found.lower, whole.lower), (found.upper, whole.upper)):
        assert all(torch.equal(*values) for values in zip(*map(dataclasses.astuple, (a, b)), strict=True))
    pilot_chains = 4
    move = (how.leapfrog_steps + 1) * pilot_chains * min(3, max(1, rows // how.chains)) + 1
    assert sum(weighed) <= alone + len(fractions) * move


def test_batches_whose_posteriors_were_optimised_are_not_optimised_again(model, weighed):
    x, log_p = images(5), torch.zeros(5)
    whole = encoder_gaps(model, x, log_p, steps=10, rows=500)
    alone = sum(weighed)
    weighed.clear()
    kept = {}
    with pytest.raises(Interrupted):
        encoder_gaps(model, x, log_p, steps=10, rows=500, progress=until(0.85), kept=kept)
    weighed.clear()
    found = encoder_gaps(model, x, log_p, steps=10, rows=500, kept=kept)
    assert torch.equal(found.best_elbo, whole.best_elbo) and torch.equal(found.elbo, whole.elbo)
    assert sum(weighed) < alone / 4, "one image of five"


@pytest.mark.parametrize("change", ["weights", "images", "k", "scale"])
def test_what_was_kept_is_of_one_evaluation_only(model, change):
    x, k, kept = images(9), 30, {}
    model.encoder[0] = ScaledGaussian(model.encoder[0], "variance")
    with torch.no_grad():
        model.encoder[0].layer.heads[1].bias += 5
    likelihood(model, x, k, kept=kept)
    if change == "weights":
        next(model.parameters()).data *= 2
    elif change == "images":
        x = 1 - x
    elif change == "k":
        k = 31
    else:
        model.encoder[0].scale = "sigma"
    assert torch.equal(likelihood(model, x, k, kept=kept).bound, likelihood(model, x, k).bound)


def test_what_was_compiled_is_compiled_again(model, monkeypatch):
    modes = []
    monkeypatch.setattr(Compiled, "__init__", lambda self, function, mode: (modes.append(mode), vars(self).update(
        eager=function, compiled=function, choice=Choice("true", 0.1), shapes=None
    ))[0])  # fmt: skip
    kept = {}
    with pytest.raises(Interrupted):
        likelihood(model, images(20), 30, compile="auto", progress=until(8), kept=kept)
    likelihood(model, images(20), 30, compile="auto", kept=kept)
    assert modes == ["auto", "true"]


SMALL = [
    *TINY,
    "schedule.epochs=1",
    "evaluation.ais.images=5",
    "evaluation.ais.chains=2",
    "evaluation.ais.temperatures=4",
]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """interrupted(task, fraction): from now on the task shown under that name ends there; None: no more."""

    def arrange(task: str | None, fraction: float = 0.0) -> None:
        stop = until(fraction)
        monkeypatch.setattr(
            measuring, "shown",
            lambda name: contextlib.nullcontext(stop if name == task else lambda done: None)
        )  # fmt: skip

    return arrange


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*evaluation-*"))


def test_a_run_that_is_interrupted_while_it_is_measured_resumes(composed, interrupted, tmp_path):
    whole = run(composed(*SMALL, f"runs_dir={tmp_path / 'whole'}"))
    cfg = composed(*SMALL, f"runs_dir={tmp_path / 'runs'}")
    for task, fraction in (("evaluation", 0.6), ("annealing", 0.5)):
        interrupted(task, fraction)
        with pytest.raises(Interrupted):
            run(cfg)
        assert len(hidden(tmp_path / "runs")) == 1
    interrupted(None)
    found = run(cfg)
    assert found.metrics == whole.metrics and hidden(tmp_path) == []
    assert found.steps == whole.steps


def test_measuring_again_resumes_and_a_damaged_file_is_no_error(composed, interrupted, tmp_path, monkeypatch, caplog):
    run(composed(*SMALL, f"runs_dir={tmp_path / 'runs'}"))
    (folder,) = (tmp_path / "runs").glob("npz*")
    trained = TrainedRun.read(folder)
    interrupted("annealing", 0.5)
    caplog.set_level("INFO", "iwae_lab")
    monkeypatch.setattr(interrupted_evaluation.log, "propagate", True)  # which running a command ends
    for damaged in (False, True):
        with pytest.raises(Interrupted):
            measured_again(trained, folder)
        if damaged:
            (file,) = hidden(folder)
            file.write_bytes(file.read_bytes()[:200])
    interrupted(None)
    assert "the same command resumes the evaluation where it was" in caplog.text
    assert measured_again(trained, folder).metrics == trained.record.metrics
    assert "can't be read, so the evaluation starts anew" in caplog.text
    assert hidden(folder) == []


@pytest.mark.parametrize("number", WARNINGS)
def test_a_signal_interrupts_the_command_as_ctrl_c_does(number, composed, tmp_path, monkeypatch):
    def measured(*_):
        os.kill(os.getpid(), number)
        time.sleep(60)

    run(composed(*SMALL, f"runs_dir={tmp_path / 'runs'}"))
    (folder,) = (tmp_path / "runs").glob("npz*")
    monkeypatch.setattr(evaluate, "measured_again", measured)
    monkeypatch.setattr(sys, "argv", ["evaluate", str(folder)])
    for signal_number in WARNINGS:
        signal.signal(signal_number, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main()


def test_a_full_disk_does_not_end_an_evaluation(composed, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(interrupted_evaluation, "SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr(interrupted_evaluation.log, "propagate", True)
    config = resolve(composed(*SMALL)).config
    with interrupted_evaluation.resumable(tmp_path / "of a run", config) as kept:
        kept["a"] = (torch.ones(2), "auto")
        (file,) = hidden(tmp_path)
        file.unlink()
        file.mkdir()
        kept["b"] = (torch.ones(2),)
        file.rmdir()
        kept["c"] = (torch.ones(2),)
        assert not file.exists(), "it is not tried again"
    assert "if interrupted, this evaluation will start anew" in caplog.text


def test_a_disk_that_can_only_be_read_does_not_end_an_evaluation(composed, monkeypatch, tmp_path):
    def refuse(path, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with interrupted_evaluation.resumable(tmp_path, resolve(composed(*SMALL)).config) as kept:
        assert not kept


@pytest.mark.slow
def test_other_peoples_weights_resume_too(model, composed, interrupted, tmp_path):
    run_of_theirs = resolve(composed(*SMALL)).model()
    torch.save(run_of_theirs.state_dict(), tmp_path / "theirs.pt")
    keys = [key for key in SMALL if key.partition("=")[0].partition(".")[0] in KEYS]
    interrupted("annealing", 0.5)
    with pytest.raises(Interrupted):
        measure_external(tmp_path / "theirs.pt", "one_layer", None, [*keys, f"runs_dir={tmp_path / 'runs'}"])
    assert len(hidden(tmp_path / "runs")) == 1
    interrupted(None)
    found, _ = measure_external(tmp_path / "theirs.pt", "one_layer", None, [*keys, f"runs_dir={tmp_path / 'runs'}"])
    whole, _ = measure_external(tmp_path / "theirs.pt", "one_layer", None, [*keys, f"runs_dir={tmp_path / 'whole'}"])
    assert found.metrics == whole.metrics and hidden(tmp_path) == []
