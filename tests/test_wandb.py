"""W&B against a server that speaks its protocol, and without one."""

import base64
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib
import pytest
import wandb
import yaml
from conftest import ROOT, TINY, ask
from wandb_helpers import OPENWANDB, Front, Server

from iwae_lab.loggers.wandb import WandB
from iwae_lab.record import Record

needs_server = pytest.mark.skipif(OPENWANDB is None, reason="openwandb (a W&B-protocol server) is not installed")
Train = Callable[..., subprocess.CompletedProcess[str]]
FIGURES = ("samples", "reconstructions", "log_variances")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "data")
    yield server.start()
    server.stop()


def without_account(home: Path) -> dict[str, str]:
    """The environment of a machine without a W&B account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return kept | {"HOME": str(home), "MPLCONFIGDIR": matplotlib.get_cachedir()}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return without_account(tmp_path)


@pytest.fixture
def train(zygote: subprocess.Popen[str], environment: dict[str, str], tmp_path: Path) -> Train:
    """train(*overrides, **environment) -> what a tiny run with W&B did."""
    arguments = ["train.py", *TINY, "logger=wandb", f"runs_dir={tmp_path}/r"]
    return lambda *overrides, **more: ask(zygote, tmp_path, [*arguments, *overrides], environment | more)


def start(environment: Mapping[str, str], tmp_path: Path, *overrides: str) -> subprocess.Popen[str]:
    """The same, in the background."""
    command = [sys.executable, "train.py", *TINY, "logger=wandb", f"runs_dir={tmp_path}/r", *overrides]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def run_folders(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.glob("*/result.json"))


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def wandb_id(folder: Path) -> str:
    """The id of the folder's latest run in W&B."""
    return list(json.loads((folder / "wandb.json").read_text()))[-1]


def column(folder: Path, key: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[key]) for row in csv.DictReader(file) if row[key]]


def log_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What W&B's own file of a run says, by kind, a list a session one after the other."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("wandb/*run-*/*.wandb")):
        command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", path]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            found.setdefault(entry["type"], []).append(entry.get(entry["type"], {}))
    return found


def assert_whole(server: Server, project: str, folder: Path) -> None:
    """The server holds what the run folder holds."""
    record, run_id = record_of(folder), wandb_id(folder)
    found = server.runs(project)[run_id]
    assert found["config"]["run_id"]["value"] == record["run_id"]
    assert found["summary"]["status"] == "finished"
    for key in ("dataset", "protocol", "model", "objective", "k", "schedule", "seed"):
        assert found["config"][key]["value"] == record[key]
    assert found["summary"]["test/nll"] == pytest.approx(record["metrics"]["test/nll"])
    assert found["summary"]["test/active_units/1"] == record["metrics"]["test/active_units"][0]
    for key in ("step", "train/bound", "train/ess", "val/nll", "val/active_units/1", "learning_rate"):
        expected = column(folder, key)
        assert server.history(run_id, key)[: len(expected)] == pytest.approx(expected), key
    for name in FIGURES:
        assert server.drawn(run_id, name) == len(column(folder, "val/nll")) + 1, name  # at the end once more
    for name in ("training_curve", "unit_variances"):
        assert server.drawn(run_id, name) == 1, name


@pytest.fixture(scope="module")
def multirun(
    server: Server, zygote: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path, Path]:
    """What a multirun of two jobs did, and the folders of the one that finished and the one that failed."""
    home = tmp_path_factory.mktemp("multirun")
    given = ["train.py", *TINY, "logger=wandb", f"runs_dir={home}/r", "hydra.mode=MULTIRUN"]
    given += ["logger.wandb.project=multi", "logger.wandb.tags=[mine]"]
    given += ["schedule.learning_rate=0.001,1e30"]  # the latter makes the loss NaN
    done = ask(zygote, home, given, without_account(home) | server.environment | {"WANDB_TAGS": "theirs,mine"})
    assert done.returncode == 1, done.stderr
    good, bad = sorted(run_folders(home / "r"), key=lambda folder: record_of(folder)["status"] == "failed")
    return done, good, bad


@needs_server
def test_every_job_of_a_multirun_arrives_as_a_run_of_its_own(server: Server, multirun: Any) -> None:
    done, good, bad = multirun
    assert_whole(server, "multi", good)
    assert record_of(bad)["status"] == "failed"
    assert server.runs("multi")[wandb_id(bad)]["summary"]["status"] == "failed"  # the server's own state: always finished
    assert len(server.runs("multi")) == 2
    assert "1 finished, 1 failed" in done.stdout
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert "the training loss became" in told and str(bad / "log.txt") in told


@needs_server
def test_runs_are_grouped_tagged_and_summed_up_and_a_failed_one_ends_with_code_1(server: Server, multirun: Any) -> None:
    """From W&B's own files where the server keeps no such field."""
    _, good, bad = multirun
    logs = [log_of(folder) for folder in (good, bad)]
    assert [log["exit"][0].get("exit_code", 0) for log in logs] == [0, 1]
    for folder, log in zip((good, bad), logs, strict=True):
        (run,) = log["run"]
        assert (run["run_id"], run["display_name"]) == (wandb_id(folder), folder.name)
        tags = ["theirs", "mine", "mnist_5k", "one_layer", "iwae"]
        assert run["tags"] == server.runs("multi")[wandb_id(folder)]["tags"] == tags
    (group,) = {log["run"][0]["run_group"] for log in logs}
    assert group.startswith("evaluation.images=30 evaluation.k=20 k=3 ")
    summary = server.summary("multi", wandb_id(good))
    for key in ("val/nll", "train/loss"):
        assert summary[key] == {"min": pytest.approx(min(column(good, key)))}
    for key in ("val/bound", "train/bound"):
        assert summary[key] == {"max": pytest.approx(max(column(good, key)))}


@needs_server
@pytest.mark.parametrize("sweep", sorted((ROOT / "sweeps" / "wandb").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_metric_of_a_wandb_sweep_is_in_the_history(server: Server, multirun: Any, sweep: Path) -> None:
    """W&B's search looks there for the very name, and for a number."""
    _, good, _ = multirun
    metric = yaml.safe_load(sweep.read_text())["metric"]
    assert metric["goal"] == "minimize"
    assert server.history(wandb_id(good), metric["name"])


@needs_server
def test_the_checkpoint_is_an_artifact_on_request_only(
    server: Server, multirun: Any, train: Train, environment: dict[str, str], tmp_path: Path
) -> None:
    _, unasked, _ = multirun
    assert not server.artifacts(wandb_id(unasked))
    done = train("logger.wandb.upload_checkpoint=true", "logger.wandb.project=asked")
    assert done.returncode == 0, done.stderr
    (folder,) = run_folders(tmp_path / "r")
    (offered,) = log_of(folder)["artifact"]
    checksum = hashlib.md5((folder / "checkpoints" / "last.ckpt").read_bytes()).digest()
    (file,) = offered["manifest"]["contents"]
    assert (file["path"], base64.b64decode(file["digest"])) == ("last.ckpt", checksum)
    sync(done.stderr, environment | server.environment)
    (artifact,) = server.artifacts(wandb_id(folder))  # openwandb asks no client for the file
    assert (artifact["name"], artifact["artifact_type"]) == (folder.name, "model")


@pytest.mark.slow
@needs_server
def test_an_offline_multirun_arrives_whole_by_wandb_sync(
    server: Server, environment: dict[str, str], train: Train, tmp_path: Path
) -> None:
    done = train("logger.wandb.project=synced", "seed=1,2", "hydra.mode=MULTIRUN")
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
    overrides = ["schedule.epochs=12", "logger.wandb.finish_timeout=2"]
    job = start(environment | server.environment, tmp_path, *overrides)
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
@pytest.mark.parametrize("online", [True, False])
def test_a_run_that_goes_on_is_one_run_in_wandb(
    server: Server, environment: dict[str, str], train: Train, tmp_path: Path, online: bool
) -> None:
    project = f"resumed_{online}"
    overrides = ["schedule.epochs=12", f"logger.wandb.project={project}", f"seed={int(online)}"]
    with Front(server) as front:
        account = front.environment if online else {}
        job = start(environment | account, tmp_path, *overrides)
        wait_for(lambda: list(tmp_path.glob("r/*/checkpoints/last.ckpt")))
        job.send_signal(signal.SIGTERM)
        _, stderr = job.communicate(timeout=60)
        assert job.returncode != 0 and "the same command goes on" in stderr
        (folder,) = run_folders(tmp_path / "r")
        assert record_of(folder)["error"] == "interrupted"
        assert 0 < len(column(folder, "step")) < 12
        if online:
            assert server.runs(project)[wandb_id(folder)]["summary"]["status"] == "failed"
        done = train(*overrides, **account)
        assert done.returncode == 0 and "going on from" in done.stderr
        if not online:
            sync(done.stderr, environment | front.environment)
        lines = front.history[wandb_id(folder)]
    assert len(server.runs(project)) == 1
    assert [run["run_id"] for run in log_of(folder)["run"]] == [wandb_id(folder)] * 2
    assert [end.get("exit_code", 0) for end in log_of(folder)["exit"]] == [1, 0]
    assert [(offset, line["_step"]) for offset, line in lines] == [(i, i) for i in range(13)]  # and the result
    assert [line["step"] for _, line in lines[:12]] == column(folder, "step")
    assert_whole(server, project, folder)


@pytest.mark.parametrize("known", [-1, 80])
def test_of_a_resumed_run_wandb_is_given_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int
) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/bound\n40,-3.0\n80,-2.0\n120,-1.0\n")
    record = Record(
        "r", "d", "dynamic", "p", "m", "iwae", k=5, schedule="quick", seed=0, epochs=4, config={}, identity={}
    )
    run = Mock(resumed=known >= 0, offline=False, url=None, summary={"step": known})
    monkeypatch.setenv("WANDB_MODE", "offline")
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **arguments: started.append(arguments) or run)
    logger = WandB(folder=tmp_path, record=record)
    assert started[0]["resume"] == "allow"
    logger.log_figures(Mock(side_effect=AssertionError), 120)
    logger.log_metrics({"train/bound": -1.0}, 120)  # the epoch after the checkpoint, once more
    logger.log_metrics({"train/bound": -0.5}, 160)
    logger.log_metrics({"diagnostics/ess": 2.0}, 160)
    logged = [call.args[0]["step"] for call in run.log.call_args_list]
    assert logged == [step for step in (40, 80, 120, 160, 160) if step > known]
    (tmp_path / "again").mkdir()
    WandB(folder=tmp_path / "again", record=record)
    assert started[1]["resume"] is None, "force=true begins anew, though W&B knows the id"


def test_a_mode_that_wandb_does_not_know_is_one_line(train: Train) -> None:
    done = train(WANDB_MODE="none")
    assert done.returncode == 1
    assert "WANDB_MODE=none: expected one of online, offline" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_an_unreachable_server_means_offline_with_a_warning(train: Train, tmp_path: Path) -> None:
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    done = train("logger.wandb.init_timeout=2", **nowhere)
    assert done.returncode == 0, done.stderr
    assert "can't be reached" in done.stderr and "wandb sync" in done.stderr
    (folder,) = run_folders(tmp_path / "r")
    assert list(folder.glob("wandb/offline-run-*"))


@needs_server
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_servers_pages_show_the_runs_of_a_multirun_side_by_side(
    server: Server, multirun: Any, tmp_path: Path
) -> None:
    _, *folders = multirun
    server.publish("multi")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    for page in ("projects/default/multi", f"compare/default/multi?runs={','.join(map(wandb_id, folders))}"):
        command = ["chromium", *options, f"--user-data-dir={tmp_path}/profile", f"{server.url}/{page}"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        body = re.sub("(?s)<script.*?</script>", "", shown)
        assert all(folder.name in body for folder in folders), page


def sync(said: str, environment: dict[str, str]) -> None:
    """Do what the runs said to do."""
    commands = re.findall("`(wandb sync .*?)`", said)
    assert commands
    for command in commands:
        done = subprocess.run(
            shlex.split(command), env=environment, cwd=environment["HOME"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and "Finished syncing" in done.stderr, done.stdout + done.stderr


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
