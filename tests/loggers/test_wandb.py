"""W&B against a server that speaks its protocol, and without one."""

import base64
import csv
import functools
import hashlib
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib
import pytest
import yaml
from helpers.commands import ROOT, TINY, Command, beginning, wait_for
from helpers.wandb_server import OPENWANDB, STAND_IN, Front, Server
from PIL import Image

from iwae_lab.console.errors import UserError
from iwae_lab.loggers.wandb import WandB
from iwae_lab.runs.record import Record


def needs_server(test: Callable[..., None]) -> Callable[..., None]:
    missing = pytest.mark.skipif(OPENWANDB is None, reason="openwandb (a W&B-protocol server) is not installed")
    return pytest.mark.server(missing(test))


Train = Callable[..., subprocess.CompletedProcess[str]]
FIGURES = ("samples", "reconstructions", "log_variances")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "data")
    yield server.start()
    server.stop()


@pytest.fixture
def front(server: Server, offline: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Before the server, for this process alone."""
    with Front(server) as standing:
        for key, value in standing.environment.items():
            monkeypatch.setenv(key, value)
        yield standing


def without_account(home: Path) -> dict[str, str]:
    """The environment of a machine without a W&B account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return kept | {"HOME": str(home), "MPLCONFIGDIR": matplotlib.get_cachedir()}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return without_account(tmp_path)


@pytest.fixture
def train(fork_server: subprocess.Popen[str], environment: dict[str, str], tmp_path: Path) -> Train:
    """train(*overrides, **environment) -> what a tiny run with W&B did."""
    arguments = ["train.py", *TINY, "logger=wandb", f"runs_dir={tmp_path}/r"]
    return lambda *overrides, **more: Command(
        fork_server, tmp_path, [*arguments, *overrides], environment | more
    ).wait()


@pytest.fixture
def begin(
    fork_server: subprocess.Popen[str], environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., Command]]:
    """The same, at work."""
    with beginning(fork_server, tmp_path, environment) as start:
        yield functools.partial(start, "train.py", *TINY, "logger=wandb", f"runs_dir={tmp_path}/r")


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


def logged_rows(folder: Path) -> list[tuple[str, int]]:
    """Of each row in W&B's own files: the W&B run and the step."""
    rows = []
    for path in sorted(folder.glob("wandb/*run-*/*.wandb")):
        command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", path]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        steps = [int(entry["history"]["item"]["step"]) for entry in entries if entry["type"] == "history"]
        rows += [(path.stem.removeprefix("run-"), step) for step in steps]
    return rows


def logged_steps(folder: Path) -> list[int]:
    return [step for _, step in logged_rows(folder)]


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
    server: Server, fork_server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path, Path]:
    """What a multirun of two jobs did, and the folders of the one that finished and the one that failed."""
    home = tmp_path_factory.mktemp("multirun")
    given = ["train.py", *TINY, "logger=wandb", f"runs_dir={home}/r", "hydra.mode=MULTIRUN"]
    given += ["logger.wandb.project=multi", "logger.wandb.tags=[mine]"]
    given += ["schedule.learning_rate=0.001,1e30"]  # the latter makes the loss NaN
    tags = {"WANDB_TAGS": "theirs,mine"}
    done = Command(fork_server, home, given, without_account(home) | server.environment | tags).wait()
    assert done.returncode == 1, done.stderr
    good, bad = sorted(run_folders(home / "r"), key=lambda folder: record_of(folder)["status"] != "finished")
    return done, good, bad


@needs_server
def test_every_job_of_a_multirun_arrives_as_a_run_of_its_own(server: Server, multirun: Any) -> None:
    done, good, bad = multirun
    assert_whole(server, "multi", good)
    assert record_of(bad)["status"] == "diverged"
    assert (
        server.runs("multi")[wandb_id(bad)]["summary"]["status"] == "failed"
    )  # the server's own state: always finished
    assert len(server.runs("multi")) == 2
    assert "1 finished, 1 failed" in done.stdout
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert "training diverged: the loss is nan" in told and str(bad / "log.txt") in told


@needs_server
def test_runs_are_grouped_tagged_and_summed_up_and_a_failed_one_ends_with_code_1(server: Server, multirun: Any) -> None:
    """From W&B's own files where the server keeps no such field."""
    _, good, bad = multirun
    logs = [log_of(folder) for folder in (good, bad)]
    assert [log["exit"][0].get("exit_code", 0) for log in logs] == [0, 1]
    for folder, log in zip((good, bad), logs, strict=True):
        (run,) = log["run"]
        assert (run["run_id"], run["display_name"]) == (wandb_id(folder), folder.name)
        tags = ["theirs", "mine", "npz", "one_layer", "iwae"]
        assert run["tags"] == server.runs("multi")[wandb_id(folder)]["tags"] == tags
    (group,) = {log["run"][0]["run_group"] for log in logs}
    assert " evaluation.images=30 evaluation.k=20 " in group
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
def test_a_server_lost_in_mid_run_costs_nothing(
    environment: dict[str, str], begin: Callable[..., Command], tmp_path: Path
) -> None:
    server = Server(tmp_path / "data").start()
    try:
        job = begin("schedule.epochs=12", "logger.wandb.finish_timeout=2", **server.environment)
        wait_for(lambda: server.runs("iwae_lab"))
        server.stop()
        done = job.wait()
        assert done.returncode == 0, done.stderr
        server.start()
        sync(done.stderr, environment | server.environment)
        (folder,) = run_folders(tmp_path / "r")
        assert len(column(folder, "step")) == 12
        assert_whole(server, "iwae_lab", folder)
    finally:
        server.stop()


@pytest.mark.slow
@needs_server
@pytest.mark.parametrize("online", [True, False])
def test_a_resumed_run_is_one_run_in_wandb(
    server: Server,
    environment: dict[str, str],
    begin: Callable[..., Command],
    train: Train,
    tmp_path: Path,
    online: bool,
) -> None:
    project = f"resumed_{online}"
    overrides = ["schedule.epochs=12", f"logger.wandb.project={project}", f"seed={int(online)}"]
    with Front(server) as front:
        account = front.environment if online else {}
        job = begin(*overrides, **account)
        wait_for(lambda: list(tmp_path.glob("r/*/checkpoints/last.ckpt")))
        os.kill(job.pid, signal.SIGTERM)
        ended = job.wait()
        assert ended.returncode != 0 and "the same command resumes" in ended.stderr
        (folder,) = run_folders(tmp_path / "r")
        assert record_of(folder)["status"] == "interrupted"
        assert 0 < len(column(folder, "step")) < 12
        if online:
            assert server.runs(project)[wandb_id(folder)]["summary"]["status"] == "failed"
        done = train(*overrides, **account)
        assert done.returncode == 0 and "resuming from" in done.stderr
        if not online:
            sync(done.stderr, environment | front.environment)
        lines = front.history[wandb_id(folder)]
    assert len(server.runs(project)) == 1
    assert [run["run_id"] for run in log_of(folder)["run"]] == [wandb_id(folder)] * 2
    assert [end.get("exit_code", 0) for end in log_of(folder)["exit"]] == [1, 0]
    assert [(offset, line["_step"]) for offset, line in lines] == [(i, i) for i in range(13)]  # and the result
    assert [line["step"] for _, line in lines[:12]] == column(folder, "step")
    assert_whole(server, project, folder)


def record_in(folder: Path, **differing: Any) -> Record:
    """The record of a run in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "k": 5,
        "schedule": "quick",
        "seed": 0,
        "epochs": 4,
        "config": {},
        "identity": {},
        "steps": 160,
    } | differing
    return Record("r", "d", "dynamic", "p", "m", "iwae", **values)


def metrics_of(step: int, nll: float) -> dict[str, float]:
    return {"step": step, "train/bound": -nll, "train/loss": nll, "val/bound": -nll, "val/nll": nll}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def log_rows(logger: WandB, rows: list[dict[str, float]]) -> None:
    for row in rows:
        logger.log_metrics({key: value for key, value in row.items() if key != "step"}, int(row["step"]))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This process on a machine without a W&B account."""
    for key in os.environ.keys() - without_account(tmp_path).keys():
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def stand_in(offline: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """stand_in(fault) puts a module in the place of W&B's client."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "wandb.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))
    monkeypatch.setenv("PID_FILE", str(tmp_path / "pid"))
    return lambda fault: monkeypatch.setenv("FAULT", fault)


@pytest.mark.parametrize("lost", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_run_gets_what_wandb_lacks(offline: None, tmp_path: Path, lost: bool) -> None:
    """lost: of W&B's files nothing is left."""
    folder = tmp_path / "r"
    record = record_in(folder)
    rows = [metrics_of(40, 3.0), metrics_of(80, 2.0), metrics_of(120, 1.0)]
    first = WandB(folder=folder, record=record)
    first.start([])
    log_rows(first, rows[:2])
    first.close(failed=True)
    if lost:
        shutil.rmtree(folder / "wandb")
    second = WandB(folder=folder, record=record)
    second.start(rows)
    second.log_figures(Mock(side_effect=AssertionError), 120)
    log_rows(second, [rows[2], metrics_of(160, 4.0)])  # the epoch after the checkpoint once more, and a new one
    second.close(failed=False)
    assert second.id == first.id
    assert logged_steps(folder) == [40, 80, 120, 160]


@needs_server
def test_summaries_of_a_resumed_run_are_those_of_all_its_epochs(server: Server, front: Front, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    record = record_in(folder)
    rows = [metrics_of(40, 3.0), metrics_of(80, 1.0)]
    first = WandB("summaries", folder=folder, record=record)
    first.start([])
    log_rows(first, rows)
    first.close(failed=True)
    second = WandB("summaries", folder=folder, record=record)
    second.start(rows)
    log_rows(second, [metrics_of(120, 2.0), metrics_of(160, 4.0)])
    second.close(failed=False)
    assert server.history(first.id, "val/nll") == [3.0, 1.0, 2.0, 4.0]
    summary = server.summary("summaries", first.id)
    found = {key: summary[key] for key in metrics_of(0, 0.0)}
    best = {"train/bound": {"max": -1.0}, "val/bound": {"max": -1.0}, "train/loss": {"min": 1.0}}
    assert found == best | {"val/nll": {"min": 1.0}, "step": 160}


def test_a_folder_keeps_its_wandb_run_and_another_folder_gets_another(
    stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    stand_in("none")

    def logged(folder: str, **options: Any) -> str:
        logger = WandB(**options, folder=tmp_path / folder, record=record_in(tmp_path / folder))
        logger.start([])
        logger.close(failed=True)
        return logger.id

    first = logged("a/r")
    assert logged("b/r") != first
    assert logged("a/r", project="another") != first
    assert logged("a/r") == first
    shutil.rmtree(tmp_path / "a")
    assert logged("a/r") != first


@pytest.mark.slow
@needs_server
def test_a_run_deleted_on_the_server_is_uploaded_under_a_new_id(server: Server, front: Front, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    record = record_in(folder)
    rows = [metrics_of(40, 3.0)]
    first = WandB("deleted", folder=folder, record=record)
    first.start([])
    log_rows(first, rows)
    first.close(failed=True)
    front.deleted.add(first.id)
    second = WandB("deleted", folder=folder, record=record)
    second.start(rows)
    second.close(failed=True)
    assert second.id != first.id
    assert server.history(second.id, "val/nll") == [3.0]


@pytest.mark.parametrize("place", ["import", "init", "log", "finish"])
@pytest.mark.parametrize(
    "kind", ["raise", "interrupt", "exit", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("hang", "hold"))]
)
def test_whatever_wandb_does_costs_a_run_one_line_and_seconds(
    stand_in: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    kind: str,
    place: str,
) -> None:
    stand_in(f"{kind} in {place}")
    monkeypatch.setattr("iwae_lab.loggers.wandb.MARGIN", 1.0)
    record = record_in(tmp_path / "r", metrics={"test/nll": 1.0, "test/unit_variances": [[0.1]]})
    logger = WandB(init_timeout=1, finish_timeout=1, folder=tmp_path / "r", record=record)
    start = time.monotonic()
    logger.start([])
    log_rows(logger, [metrics_of(40, 3.0), metrics_of(80, 2.0)])
    logger.log_result(record, {"samples": Image.new("L", (9, 9))})
    logger.close(failed=False)
    assert time.monotonic() - start < 8
    (warning,) = warnings_in(caplog)
    assert re.search(r"W&B: .*; the run continues without it; .* the same command uploads it", warning)
    assert kind not in ("raise", "interrupt") or "no luck" in warning
    assert not logger.holds_result()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_that_cannot_be_started_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Mock(side_effect=OSError("Too many open files")))
    logger = WandB(folder=tmp_path, record=record_in(tmp_path))
    logger.start([])
    logger.close(failed=False)
    (warning,) = warnings_in(caplog)
    assert "Too many open files; the run continues without it" in warning


@pytest.mark.parametrize(("key", "seconds"), [("init_timeout", float("nan")), ("finish_timeout", -1.0)])
def test_a_time_limit_is_a_number_of_seconds(tmp_path: Path, key: str, seconds: float) -> None:
    with pytest.raises(UserError, match=f"^{key}={seconds}: expected a number of seconds"):
        WandB(**{key: seconds}, folder=tmp_path, record=record_in(tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {}}', '{"a": {"destination": "//iwae_lab"}}', "\0"])
def test_a_damaged_wandb_json_counts_as_none(offline: None, tmp_path: Path, content: str) -> None:
    (tmp_path / "wandb.json").write_text(content)
    logger = WandB(folder=tmp_path, record=record_in(tmp_path))
    assert logger.known_id() is None and not logger.holds_result()


def test_a_hanging_client_does_not_outlive_a_killed_run(stand_in: Callable[[str], None], tmp_path: Path) -> None:
    stand_in("hold in init")
    script = f"""
from pathlib import Path
from iwae_lab.loggers.remote import Remote
import os, time
given = dict(arguments={{}}, settings={{}}, spare_id="", sessions=[], summarized=[])
Remote(Path("iwae_lab/loggers/wandb_client.py"), [], dict(os.environ)).send("start", 2.0, **given)
while not Path("{tmp_path}/pid").exists():
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not running(int((tmp_path / "pid").read_text())), 10)


@pytest.mark.slow
def test_a_killed_run_ends_as_failed_in_wandb(offline: None, tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(pickle.dumps(record_in(tmp_path / "r")))
    script = f"""
import os, pickle
from pathlib import Path
from iwae_lab.loggers.wandb import WandB
folder = Path("{tmp_path}")
WandB(folder=folder / "r", record=pickle.loads((folder / "record").read_bytes())).start([])
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: "exit" in log_of(tmp_path / "r"))
    assert log_of(tmp_path / "r")["exit"][0]["exit_code"] == 1


def running(pid: int) -> bool:
    try:
        return b" Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def test_a_service_that_cannot_start_in_time_is_given_up(
    offline: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """wandb 0.31 deadlocks there."""
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "0")
    monkeypatch.setattr("iwae_lab.loggers.wandb.MARGIN", 3.0)
    logger = WandB(init_timeout=1, folder=tmp_path / "r", record=record_in(tmp_path / "r"))
    logger.start([])
    logger.close(failed=False)
    (warning,) = warnings_in(caplog)
    assert "the run continues without it" in warning


def test_where_the_user_disabled_wandb_it_leaves_nothing(
    offline: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [Path(sys.executable).with_name("wandb"), "disabled"]
    subprocess.run(command, check=True, capture_output=True)
    record = record_in(tmp_path / "r")
    logger = WandB(folder=tmp_path / "r", record=record)
    logger.start([])
    log_rows(logger, [metrics_of(40, 3.0)])
    logger.close(failed=False)
    assert not list((tmp_path / "r").iterdir())
    assert not warnings_in(caplog)


def test_a_malformed_key_is_told_before_training_and_the_run_is_offline(
    offline: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    logger = WandB(folder=tmp_path / "r", record=record_in(tmp_path / "r"))
    logger.start([])
    (warning,) = warnings_in(caplog)
    assert "WANDB_API_KEY invalid: API key must have 40+ characters" in warning and "offline" in warning
    logger.close(failed=False)
    assert list((tmp_path / "r").glob("wandb/offline-run-*"))


def test_a_finished_run_is_logged_to_a_tracker_that_lacks_it_without_training(train: Train, tmp_path: Path) -> None:
    assert train("logger=csv").returncode == 0
    (folder,) = run_folders(tmp_path / "r")
    recorded = (folder / "result.json").read_bytes()
    done = train()
    assert done.returncode == 0 and "this run is finished" in done.stderr and "wandb sync" in done.stderr
    assert (folder / "result.json").read_bytes() == recorded
    log = log_of(folder)
    assert logged_steps(folder) == [*column(folder, "step"), record_of(folder)["steps"]]
    (nll,) = (row["item"]["test/nll"] for row in log["history"] if "test/nll" in row["item"])
    assert float(nll) == record_of(folder)["metrics"]["test/nll"]
    held = sorted(folder.rglob("*"))
    done = train()
    assert done.returncode == 0 and "wandb sync" not in done.stderr
    assert sorted(folder.rglob("*")) == held


def agents_arguments(config: dict[str, Any]) -> list[str]:
    """How W&B's agent gives a run's config to a command."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args  # takes seconds to import

    return create_sweep_command_args({"args": {key: {"value": config[key]} for key in config}})["args_no_hyphens"]


@pytest.mark.slow
def test_a_sweeps_agent_gets_its_metric_of_a_run_that_it_repeats(train: Train, tmp_path: Path) -> None:
    """An agent that repeats a run gives its whole config as arguments."""
    assert train("schedule.learning_rate=0.003").returncode == 0
    (folder,) = run_folders(tmp_path / "r")
    (logged,) = log_of(folder)["run"]
    assert logged["config"]["update"]["run_id"] == folder.name
    given = {"schedule.learning_rate": 0.003}
    arguments = agents_arguments(logged["config"]["update"] | given)
    done = train(*arguments, WANDB_SWEEP_ID="sweep", WANDB_RUN_ID="agents")
    assert done.returncode == 0, done.stderr
    assert "this run is finished" in done.stderr and run_folders(tmp_path / "r") == [folder]
    steps = [step for run, step in logged_rows(folder) if run == "agents"]
    assert steps == [*column(folder, "step"), record_of(folder)["steps"]]


@pytest.mark.slow
def test_an_agent_may_repeat_a_run_whose_option_has_another_name(train: Train, tmp_path: Path) -> None:
    agent = {"WANDB_SWEEP_ID": "sweep", "WANDB_RUN_ID": "agents"}
    assert train("objective.name=mine", **agent).returncode == 0
    (folder,) = run_folders(tmp_path / "r")
    arguments = agents_arguments(log_of(folder)["run"][0]["config"]["update"])
    done = train("objective.name=mine", *arguments, **agent)
    assert done.returncode == 0 and "this run is finished" in done.stderr, done.stderr
    assert run_folders(tmp_path / "r") == [folder]


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


@pytest.mark.slow
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
        program = Path(sys.executable).with_name("wandb")
        done = subprocess.run(
            [program, *shlex.split(command)[1:]],
            env=environment,
            cwd=environment["HOME"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 and "Finished syncing" in done.stderr, done.stdout + done.stderr
