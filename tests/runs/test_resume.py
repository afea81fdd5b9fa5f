"""A run that is killed or interrupted resumes, and ends as an uninterrupted one does."""

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.commands import TINY, Command, records, wait_for

Cli = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Command]


@pytest.fixture(scope="module")
def uninterrupted(fork_server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of one run of 12 epochs that nothing disturbed."""
    runs = tmp_path_factory.mktemp("whole")
    done = Command(fork_server, runs, ["train.py", *TINY, "schedule.epochs=12", f"runs_dir={runs}"], os.environ).wait()
    assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_and_ends_as_if_it_had_not_been(
    cli: Cli, start: Start, tiny: list[str], tmp_path: Path, uninterrupted: Path, kill: signal.Signals
) -> None:
    overrides = [*tiny, "schedule.epochs=12"]
    (expected,) = records(uninterrupted)
    process = start("train.py", *overrides)
    folder = tmp_path / "runs" / expected["run_id"]
    wait_for((folder / "checkpoints" / "last.ckpt").exists)
    os.kill(process.pid, kill)
    killed = process.wait()
    assert killed.returncode != 0
    (stopped,) = records(tmp_path / "runs")
    assert stopped["status"] == ("running" if kill == signal.SIGKILL else "interrupted")
    if kill != signal.SIGKILL:
        assert "the same command resumes" in killed.stderr
    rows = (folder / "metrics.csv").read_text().count("\n") - 1
    assert 0 < rows < 12

    done = cli("train.py", *overrides)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    (record,) = records(tmp_path / "runs")
    assert record["status"] == "finished"
    assert record["metrics"] == expected["metrics"]

    def curve(runs: Path) -> list[tuple[str, str]]:
        with (runs / expected["run_id"] / "metrics.csv").open() as file:
            return [(row["step"], row["train/bound"]) for row in csv.DictReader(file)]

    assert curve(tmp_path / "runs") == curve(uninterrupted)


def test_a_moved_run_resumes_and_keeps_its_best_checkpoint(
    cli: Cli, start: Start, tiny: list[str], tmp_path: Path
) -> None:
    process = start("train.py", *tiny, "schedule.epochs=12")
    wait_for(lambda: list(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    os.kill(process.pid, signal.SIGTERM)
    process.wait()
    moved = (tmp_path / "runs").rename(tmp_path / "moved")
    (last,) = moved.glob("*/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["so_far"][2][-1]["val/bound"] = 0.0  # no later epoch is better
    torch.save(checkpoint, last)
    kept = last.with_name("best.ckpt").read_bytes()
    done = cli("train.py", *tiny, "schedule.epochs=12", f"runs_dir={moved}")
    assert done.returncode == 0 and "resuming" in done.stderr and "dirpath" not in done.stderr, done.stderr
    assert last.with_name("best.ckpt").read_bytes() == kept


DROPPED = """
import signal
from iwae_lab.objectives.iwae import IWAE

class Interrupting:
    def __del__(self):  # what is raised here, Python drops
        signal.raise_signal(signal.SIGINT)

class Interrupted(IWAE):
    def forward(self, model, x, k):
        Interrupting()
        return super().forward(model, x, k)
"""


def test_an_interrupt_that_python_drops_stops_the_run_all_the_same(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "dropped.py").write_text(DROPPED)
    done = cli("train.py", *tiny, "objective._target_=dropped.Interrupted", PYTHONPATH=str(tmp_path))
    assert "Exception ignored in" in done.stderr
    assert done.returncode == 130 and "the same command starts again" in done.stderr, done.stderr
    (record,) = records(tmp_path / "runs")
    assert record["status"] == "interrupted"


def test_a_run_killed_while_it_is_measured_loses_nothing(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    arguments = ["train.py", *tiny, "diagnostics=true", "schedule.epochs=3"]
    assert cli(*arguments).returncode == 0
    (before,) = records(tmp_path / "runs")
    folder = tmp_path / "runs" / before["run_id"]
    trained = {"train/bound": before["metrics"]["train/bound"]}
    (folder / "result.json").write_text(json.dumps(before | {"status": "running", "metrics": trained}))
    done = cli("-m", "iwae_lab.evaluate", str(folder))
    assert done.returncode == 0 and "this run is running, so its model is not trained to the end" in done.stderr
    (folder / "metrics.csv").unlink()  # the checkpoint has the curve
    done = cli(*arguments)
    assert done.returncode == 0 and "resuming" in done.stderr
    assert "Warning" not in done.stdout + done.stderr
    (after,) = records(tmp_path / "runs")
    assert after["metrics"] == before["metrics"]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1.0", "2.0", "3.0"], "one row per epoch, diagnostics included"
    assert all(row["diagnostics/ess"] for row in rows)
