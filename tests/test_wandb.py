"""W&B against a server that speaks its protocol, and without one."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib
import pytest
import wandb
from conftest import ROOT, TINY
from wandb_helpers import OPENWANDB, Server

from iwae_lab.loggers.wandb import WandB
from iwae_lab.record import Record

needs_server = pytest.mark.skipif(OPENWANDB is None, reason="openwandb (a W&B-protocol server) is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "data")
    yield server.start()
    server.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Of a machine without a W&B account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return kept | {"HOME": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_cachedir()}


def train(environment: dict[str, str], *overrides: str, **options: Any) -> subprocess.CompletedProcess:
    command = [sys.executable, "train.py", *TINY, "logger=wandb", *overrides]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, **options)


def run_folders(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.glob("*/result.json"))


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def column(folder: Path, key: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[key]) for row in csv.DictReader(file)]


def assert_whole(server: Server, project: str, folder: Path) -> None:
    """The server holds what the run folder holds."""
    record = record_of(folder)
    found = server.runs(project)[record["run_id"]]
    assert found["summary"]["status"] == "finished"
    for key in ("dataset", "protocol", "model", "objective", "k", "schedule", "seed"):
        assert found["config"][key]["value"] == record[key]
    assert found["summary"]["test/nll"] == pytest.approx(record["metrics"]["test/nll"])
    assert found["summary"]["test/active_units/1"] == record["metrics"]["test/active_units"][0]
    for key in ("step", "train/bound", "train/ess", "val/nll", "val/active_units/1", "learning_rate"):
        expected = column(folder, key)
        assert server.history(record["run_id"], key)[: len(expected)] == pytest.approx(expected), key
    files = " ".join(server.files(project, record["run_id"]))
    for name in ("samples", "reconstructions", "log_variances", "training_curve", "unit_variances"):
        assert name in files


@needs_server
def test_every_job_of_a_multirun_arrives_as_a_run_of_its_own(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    rates = "schedule.learning_rate=0.001,1e30"  # the latter makes the loss NaN
    done = train(
        environment | server.environment,
        f"runs_dir={tmp_path}/r",
        "hydra.mode=MULTIRUN",
        rates,
        "logger.wandb.project=multi",
    )
    assert done.returncode == 1, done.stderr
    good, bad = sorted(run_folders(tmp_path / "r"), key=lambda folder: record_of(folder)["status"] == "failed")
    assert_whole(server, "multi", good)
    assert record_of(bad)["status"] == "failed"
    assert server.runs("multi")[bad.name]["summary"]["status"] == "failed"  # the server's own state: always finished
    assert len(server.runs("multi")) == 2
    assert "1 finished, 1 failed" in done.stdout
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert "the training loss became" in told and str(bad / "log.txt") in told


@pytest.mark.slow
@needs_server
def test_an_offline_multirun_arrives_whole_by_wandb_sync(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    done = train(
        environment, f"runs_dir={tmp_path}/r", "logger.wandb.project=synced", "seed=1,2", "hydra.mode=MULTIRUN"
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / ".cache").glob("wandb*")) and not list((tmp_path / ".local").rglob("wandb*"))
    sync(done.stderr, environment | server.environment)
    folders = run_folders(tmp_path / "r")
    assert len(folders) == len(server.runs("synced")) == 2
    for folder in folders:
        assert_whole(server, "synced", folder)


@pytest.mark.slow
@needs_server
def test_a_server_lost_in_mid_run_costs_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    server = Server(tmp_path / "data").start()
    overrides = [f"runs_dir={tmp_path}/r", "schedule.passes=12", "logger.wandb.finish_timeout=2"]
    command = [sys.executable, "train.py", *TINY, "logger=wandb", *overrides]
    job = subprocess.Popen(command, cwd=ROOT, env=environment | server.environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: server.runs("iwae_lab"))
        server.stop()
        _, stderr = job.communicate(timeout=120)
        assert job.returncode == 0, stderr
        server.start()
        sync(stderr, environment | server.environment)
        (folder,) = run_folders(tmp_path / "r")
        assert len(column(folder, "step")) == 12
        assert_whole(server, "iwae_lab", folder)
    finally:
        job.kill()
        server.stop()


@pytest.mark.slow
@needs_server
def test_a_run_that_goes_on_is_one_run_in_wandb(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    overrides = [f"runs_dir={tmp_path}/r", "schedule.passes=12", "logger.wandb.project=resumed"]
    command = [sys.executable, "train.py", *TINY, "logger=wandb", *overrides]
    job = subprocess.Popen(command, cwd=ROOT, env=environment | server.environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("r/*/checkpoints/last.ckpt")))
    job.send_signal(signal.SIGTERM)
    _, stderr = job.communicate(timeout=60)
    assert job.returncode != 0 and "the same command goes on" in stderr
    (folder,) = run_folders(tmp_path / "r")
    assert record_of(folder)["error"] == "interrupted"
    assert server.runs("resumed")[folder.name]["summary"]["status"] == "failed"
    done = train(environment | server.environment, *overrides)
    assert done.returncode == 0 and "going on from" in done.stderr
    assert_whole(server, "resumed", folder)
    assert len(server.history(folder.name, "train/bound")) == 12


def test_what_wandb_has_of_a_resumed_run_is_not_logged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in: openwandb 0.5.25 tells no client that a run exists, so there it begins again at step 0."""
    (tmp_path / "metrics.csv").write_text("step,train/bound\n40,-3.0\n80,-2.0\n120,-1.0\n")
    record = Record("r", "d", "stochastic", "p", "m", "iwae", k=5, schedule="quick", seed=0, passes=4, config={})
    run = Mock(resumed=True, offline=False, url=None, summary={"step": 80})
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", lambda **arguments: run)
    logger = WandB(folder=tmp_path, record=record)
    logger.log_metrics({"train/bound": -1.0}, 120)  # the pass after the checkpoint, once more
    logger.log_metrics({"train/bound": -0.5}, 160)
    logger.log_metrics({"diagnostics/ess": 2.0}, 160)
    assert [call.args[0]["step"] for call in run.log.call_args_list] == [120, 160, 160]


@pytest.mark.slow
def test_an_unreachable_server_means_offline_with_a_warning(environment: dict[str, str], tmp_path: Path) -> None:
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    done = train(environment | nowhere, f"runs_dir={tmp_path}/r", "logger.wandb.init_timeout=2")
    assert done.returncode == 0, done.stderr
    assert "can't be reached" in done.stderr and "wandb sync" in done.stderr
    (folder,) = run_folders(tmp_path / "r")
    assert list(folder.glob("wandb/offline-run-*"))


def sync(said: str, environment: dict[str, str]) -> None:
    """Do what the runs said to do."""
    commands = re.findall("`(wandb sync .*?)`", said)
    assert commands
    for command in commands:
        done = subprocess.run(shlex.split(command), env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "Finished syncing" in done.stderr, done.stdout + done.stderr


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
