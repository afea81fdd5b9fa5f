"""`stack=2`: seeds that are trained at once are runs like others."""

import csv
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.commands import Command, records, wait_for

from iwae_lab.compare.runs import find_runs

Cli = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Command]


def metrics(runs: Path) -> dict[int, dict[str, float]]:
    return {record["seed"]: record["metrics"] for record in records(runs) if record["status"] == "finished"}


def curve(runs: Path, seed: int) -> list[tuple[str, str]]:
    (path,) = runs.glob(f"*-s{seed}-*/metrics.csv")
    with path.open() as file:
        return [(row["step"], row["train/bound"]) for row in csv.DictReader(file)]


def test_each_seed_of_a_stack_is_a_run(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    done = cli("train.py", "-m", *tiny, "seed=2,3", "stack=2", "diagnostics=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("training seeds 2 to 3 at once") == 1 and "2 finished" in done.stdout
    runs = tmp_path / "runs"
    found = metrics(runs)
    assert found.keys() == {2, 3} and found[2]["test/nll"] != found[3]["test/nll"]
    assert not list((runs / ".stacks").iterdir())
    for seed in (2, 3):
        assert [step for step, _ in curve(runs, seed)] == ["10", "20"]
        assert float(curve(runs, seed)[-1][1]) == found[seed]["train/bound"]
    for record in records(runs):
        assert record["steps"] == 20 and record["train_seconds"] > 0
        assert record["metrics"]["diagnostics/snr/inference"] > 0
    # which of them is asked for first changes nothing, nor does the one without the others
    other = cli("train.py", *tiny, "seed=3", "stack=2", "diagnostics=true", f"runs_dir={tmp_path / 'again'}")
    assert other.returncode == 0 and metrics(tmp_path / "again")[3] == found[3]
    # a run that is gone is trained again; the other is left as it is
    (kept,), (gone,) = (list(runs.glob(f"*-s{seed}-*")) for seed in (2, 3))
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    shutil.rmtree(gone)
    assert cli("train.py", *tiny, "seed=3", "stack=2", "diagnostics=true").returncode == 0
    assert metrics(runs)[3] == found[3] and before == {path: path.stat().st_mtime_ns for path in kept.rglob("*")}


def test_they_begin_as_the_runs_of_these_seeds_and_are_repetitions_of_them(
    cli: Cli, tiny: list[str], tmp_path: Path
) -> None:
    rate = "schedule.learning_rate=1e-12"  # so that all of them stay where they begin
    assert cli("train.py", "-m", *tiny, rate, "seed=0,1", "stack=2").returncode == 0
    assert cli("train.py", "-m", *tiny, rate, "seed=0,1,2").returncode == 0
    weights = {}
    for record in records(tmp_path / "runs"):
        last = tmp_path / "runs" / record["run_id"] / "checkpoints" / "last.ckpt"
        weights[record["seed"], "stack" in record["identity"]] = torch.load(last, weights_only=True)["state_dict"]
    assert weights.keys() == {(0, True), (1, True), (0, False), (1, False), (2, False)}
    for seed in (0, 1):
        torch.testing.assert_close(weights[seed, True], weights[seed, False], rtol=1e-4, atol=1e-6)
    found = find_runs([tmp_path / "runs"])
    assert len({str(run.setting) for run in found.runs}) == 1
    assert sorted(run.record.seed for run in found.runs) == [0, 1, 2]  # of the same seed the latest counts


@pytest.mark.parametrize("kill", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_stack_that_is_interrupted_resumes_for_whichever_seed_is_next(
    cli: Cli, start: Start, tiny: list[str], tmp_path: Path, kill: signal.Signals
) -> None:
    overrides = [*tiny, "stack=2", "schedule.epochs=12"]
    assert cli("train.py", "-m", *overrides, "seed=0,1", f"runs_dir={tmp_path / 'whole'}").returncode == 0
    process = start("train.py", *overrides, "seed=0")
    wait_for(lambda: list(tmp_path.glob("runs/.stacks/*/checkpoints/last.ckpt")))
    os.kill(process.pid, kill)
    killed = process.wait()
    assert killed.returncode != 0 and not list(tmp_path.glob("runs/*/checkpoints/*"))
    if kill != signal.SIGKILL:
        assert "the same command resumes" in killed.stderr
    done = cli("train.py", *overrides, "seed=1")
    assert done.returncode == 0 and "resuming from" in done.stderr and ".stacks" in done.stderr, done.stderr
    assert cli("train.py", *overrides, "seed=0").returncode == 0
    assert metrics(tmp_path / "runs") == metrics(tmp_path / "whole")
    for seed in (0, 1):
        assert curve(tmp_path / "runs", seed) == curve(tmp_path / "whole", seed)


def test_jobs_of_one_stack_at_the_same_time_train_it_once(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    jobs = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = cli("train.py", "-m", *tiny, "stack=2", "seed=0,1", *jobs)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [path.read_text() for path in tmp_path.glob("runs/*/log.txt")]
    assert sum("at once" in log for log in logs) == 1 and len(metrics(tmp_path / "runs")) == 2


def test_a_seed_that_diverges_ends_its_stack(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    arguments = ["train.py", "-m", *tiny, "seed=0,1", "stack=2", "schedule.learning_rate=1e6", "optimizer=adam"]
    done = cli(*arguments)
    assert done.returncode == 1 and done.stderr.count("training seeds 0 to 1 at once") == 1, done.stderr
    assert "failed: seeds 0 to 1 at once: training diverged" in done.stderr
    found = records(tmp_path / "runs")
    assert {(record["status"], record["seed"], record["config"]["seed"]) for record in found} == {
        ("diverged", 0, 0),
        ("diverged", 1, 1),
    }
    assert len({record["error"] for record in found}) == 1
    assert not list(tmp_path.glob("runs/.stacks/*")), "a folder that is moved away is trained from the start"
    assert cli(*arguments).stderr.count("or moving its folder away to train it from the start") == 2


def test_the_epochs_before_a_stack_diverged_can_be_looked_at(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    late = ["objective._target_=mine.Late", "objective.name=late", "schedule.epochs=4", "compile=false"]
    done = cli("train.py", *tiny, *late, "seed=0", "stack=2", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "error: seeds 0 to 1 at once: training diverged" in done.stderr, done.stderr
    assert {record["status"] for record in records(tmp_path / "runs")} == {"diverged"}
    for seed in (0, 1):
        assert [step for step, _ in curve(tmp_path / "runs", seed)] == ["10", "20"]


def test_a_stack_is_trained_in_one_precision(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    tiny = [*tiny, "precision=32"]
    assert cli("train.py", *tiny, "seed=0", "stack=2").returncode == 0
    (path,) = tmp_path.glob("runs/*-s1-*/checkpoints/last.ckpt")
    torch.save(torch.load(path, weights_only=True) | {"precision": "bf16"}, path)  # as another machine has it
    done = cli("train.py", *tiny, "seed=1", "stack=2")
    assert done.returncode == 1 and "precision=32: expected bf16, in which this stack is trained" in done.stderr


MINE = """
import torch
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.iwae import IWAE

class Mine(HierarchicalModel):
    def draw(self, x, k, *given, **more):
        if x.sum().item() < 0:
            raise ValueError
        return super().draw(x, k, *given, **more)

class Late(IWAE):
    def begin_epoch(self, epochs_done):
        self.factor = 1.0 if epochs_done < 2 else float("nan")

    def target(self, log_w):
        return super().target(log_w) * getattr(self, "factor", 1.0)

class Shuffling(HierarchicalModel):
    def __init__(self, latents: list[int], hidden: list[list[int]], *, mean_image):
        super().__init__(latents, hidden, mean_image=mean_image)
        self.register_buffer("order", torch.randperm(mean_image.numel()))

class Frozen(HierarchicalModel):
    def __init__(self, latents: list[int], hidden: list[list[int]], *, mean_image):
        super().__init__(latents, hidden, mean_image=mean_image)
        self.decoder.requires_grad_(False)
"""


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["stack=0"], r"stack=0: expected an integer of at least 1, so that all seeds are below 2**32"),
        (["stack=2", "objective=sumo"], r"stack=2: expected 1 with objective=sumo, which is not compilable"),
        (["stack=2", "model._target_=mine.Mine"], r"stack=2: expected 1 with this model and objective=iwae (vmap:"),
        (
            ["stack=3", f"seed={2**32 - 1}"],
            r"stack=3: expected an integer of at least 1, so that all seeds are below 2**32",
        ),
        (["stack=2", "force=true"], "force=true: expected false with stack above 1; move the old folders away"),
        (["stack=2", "init_from={k: 1}"], r"init_from={'k': 1}: expected null with stack above 1"),
    ],
)
def test_what_can_not_be_stacked_is_named(
    cli: Cli, tiny: list[str], tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = cli("train.py", *tiny, *overrides, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("runs/*/result.json"))


@pytest.mark.parametrize(("model", "tensor"), [("Shuffling", "model.order"), ("Frozen", "model.decoder.0.")])
def test_what_is_not_trained_in_one_seed_is_not_taken_for_that_of_another(
    cli: Cli, tiny: list[str], tmp_path: Path, model: str, tensor: str
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = cli("train.py", *tiny, "stack=2", f"model._target_=mine.{model}", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stderr
    assert f"stack=2: expected 1, since {tensor}" in done.stderr and "differs between models" in done.stderr
