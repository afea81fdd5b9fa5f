"""Failures and interruptions are told and recorded alike under every launcher."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import ROOT, records

Cli = Callable[..., subprocess.CompletedProcess[str]]

LAUNCHERS = {"basic": "hydra", "joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "submitit"}

SEEN = """
import os
from iwae_lab.loggers.base import RunLogger

class Seen(RunLogger):
    def __init__(self, **given):
        super().__init__(**given)

    def start(self, rows):
        (self.folder / "gpus").write_text(os.environ["CUDA_VISIBLE_DEVICES"])

    def log_metrics(self, metrics, step=None):
        pass
"""


@pytest.fixture(params=LAUNCHERS)
def launcher(request: pytest.FixtureRequest) -> str:
    try:
        found = importlib.util.find_spec(LAUNCHERS[request.param])
    except ModuleNotFoundError:
        found = None
    if not found:
        pytest.skip(f"hydra/launcher={request.param} is not installed")
    return request.param


@pytest.mark.parametrize("setting", ["n_jobs=0", "batch_size=2"])
def test_workers_that_can_not_be_are_refused(setting: str, cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip(LAUNCHERS["joblib"])
    jobs = ["hydra/launcher=joblib", f"hydra.launcher.{setting}", f"runs_dir={tmp_path}", "k=1,2"]
    done = cli("train.py", "-m", *jobs)
    assert done.returncode == 1 and done.stderr.startswith(f"error: hydra.launcher.{setting}: expected"), done.stderr


def test_workers_leave_it_to_their_jobs_to_divide_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(LAUNCHERS["joblib"])
    import joblib

    from iwae_lab.runs.workers import Workers

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    workers = Workers(tmp_path, threading.Event())
    workers.configure(n_jobs=2, parallel=joblib.Parallel())
    assert workers.executors[1].submit(os.getenv, "OMP_NUM_THREADS").result() is None
    workers.terminate()


@pytest.mark.slow
def test_a_failing_job_is_told_at_the_end_and_stops_no_other(
    cli: Cli, tiny: list[str], tmp_path: Path, launcher: str
) -> None:
    rates = "schedule.learning_rate=1e30,0.001"
    done = cli("train.py", "-m", f"hydra/launcher={launcher}", *tiny, "logger=csv", rates)
    assert done.returncode == 1
    assert "1 failed, 1 finished" in done.stdout
    bad = next(record for record in records(tmp_path / "runs") if record["status"] == "diverged")
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert "learning_rate=1e+30" in told and "training diverged: the loss is" in told
    assert str(tmp_path / "runs" / bad["run_id"] / "log.txt") in told


@pytest.mark.slow
@pytest.mark.parametrize("by", ["terminal", "SIGTERM"])
def test_an_interrupted_sweep_stops_at_checkpoints_and_resumes(
    cli: Cli, tiny: list[str], tmp_path: Path, launcher: str, by: str
) -> None:
    at_a_time = {"joblib": ["hydra.launcher.n_jobs=2"]}.get(launcher, [])
    jobs = ["-m", f"hydra/launcher={launcher}", *at_a_time, *tiny, "schedule.epochs=40", "seed=0,1,2"]
    with subprocess.Popen(
        [sys.executable, "train.py", *jobs],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as sweep:  # fmt: skip
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("runs/*/checkpoints/last.ckpt"))) < (1 if launcher == "basic" else 2):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if by == "terminal":
            os.killpg(sweep.pid, signal.SIGINT)
        else:
            sweep.send_signal(signal.SIGTERM)
        said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode != 0
    assert "interrupted" in said and "the same command runs what is not finished" in said
    stopped = [json.loads(job.read_text())["status"] for job in tmp_path.glob("runs/.sweeps/*/job-*.json")]
    assert set(stopped) == {"interrupted"}
    assert {record["status"] for record in records(tmp_path / "runs")} == {"interrupted"}
    done = cli("train.py", *jobs)
    assert done.returncode == 0 and "3 finished" in done.stdout
    assert all(record["status"] == "finished" for record in records(tmp_path / "runs"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"], indirect=True)
def test_jobs_that_run_at_a_time_divide_the_cores_and_have_a_gpu_each(
    cli: Cli, tiny: list[str], tmp_path: Path, launcher: str
) -> None:
    (tmp_path / "seen.py").write_text(SEEN)
    visible = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "CUDA_VISIBLE_DEVICES": "4,7", "OMP_NUM_THREADS": ""}
    seen, gpus = "+logger.seen._target_=seen.Seen", {"submitit_local": ["hydra.launcher.gpus_per_node=2"]}
    multirun = ["-m", f"hydra/launcher={launcher}", *gpus.get(launcher, []), *tiny, seen, "threads=auto", "seed=0,1"]
    done = cli("train.py", *multirun, **visible)
    assert done.returncode == 0, done.stderr
    cores = len(os.sched_getaffinity(0))
    expected = cores if launcher == "basic" else 1  # the others run as many jobs at a time as there are cores, or more
    assert [record["threads"] for record in records(tmp_path / "runs")] == [expected] * 2
    found = sorted(path.read_text() for path in tmp_path.glob("runs/*/gpus"))
    assert found == {"basic": ["4,7", "4,7"], "joblib": ["4", "7"], "submitit_local": ["0", "1"]}[launcher]
