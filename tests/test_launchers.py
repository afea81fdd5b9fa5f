"""Failures and interruptions are told and recorded alike under every launcher."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, records

Cli = Callable[..., subprocess.CompletedProcess[str]]

LAUNCHERS = {"basic": "hydra", "joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "submitit"}


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest) -> str:
    try:
        found = importlib.util.find_spec(LAUNCHERS[request.param])
    except ModuleNotFoundError:
        found = None
    if not found:
        pytest.skip(f"hydra/launcher={request.param} is not installed")
    return request.param


@pytest.mark.slow
def test_a_failing_job_is_told_at_the_end_and_stops_no_other(
    cli: Cli, tiny: list[str], tmp_path: Path, launcher: str
) -> None:
    rates = "schedule.learning_rate=1e30,0.001"
    done = cli("train.py", "-m", f"hydra/launcher={launcher}", *tiny, "logger=csv", rates)
    assert done.returncode == 1
    assert "1 failed, 1 finished" in done.stdout
    bad = next(record for record in records(tmp_path / "runs") if record["status"] == "failed")
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert "learning_rate=1e+30" in told and "the training loss became" in told
    assert str(tmp_path / "runs" / bad["run_id"] / "log.txt") in told


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib"], indirect=True)
def test_ctrl_c_ends_parallel_jobs_and_they_go_on(cli: Cli, tiny: list[str], tmp_path: Path, launcher: str) -> None:
    jobs = ["-m", f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2", *tiny, "schedule.passes=20", "seed=0,1"]
    with subprocess.Popen(
        [sys.executable, "train.py", *jobs],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as sweep:  # fmt: skip
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("runs/*/checkpoints/last.ckpt"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(sweep.pid, signal.SIGINT)  # what a terminal does
        said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode != 0
    assert "the same command again" in said
    assert not any(record["status"] == "finished" for record in records(tmp_path / "runs"))
    done = cli("train.py", *jobs)
    assert done.returncode == 0 and "2 finished" in done.stdout
    assert done.stderr.count("going on from") == 2


@pytest.mark.slow
def test_sigterm_ends_a_sweep_at_a_checkpoint_and_it_goes_on(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    command = ["-m", *tiny, "logger=csv", "schedule.passes=12", "seed=0,1"]
    sweep = subprocess.Popen([sys.executable, "train.py", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sweep.send_signal(signal.SIGTERM)
    said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode != 0
    assert "1 interrupted" in said and "the same command again" in said
    (job,) = (tmp_path / "runs" / ".sweeps").glob("*/job-*.json")
    assert json.loads(job.read_text())["status"] == "interrupted"
    done = cli("train.py", *command)
    assert done.returncode == 0 and "2 finished" in done.stdout and "going on from" in done.stderr
