"""What goes wrong with files: faults of the disk, damaged checkpoints, no room or right in the temporary directory."""

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import TINY, Command, records
from omegaconf import DictConfig

from iwae_lab.console.atomic import remove_partial_files, write_atomically
from iwae_lab.console.errors import UserError
from iwae_lab.console.explain import one_line_errors
from iwae_lab.console.locks import locked
from iwae_lab.loggers.metrics_csv import MetricsCSV
from iwae_lab.runs.experiment import resolve
from iwae_lab.runs.run import run

Composed = Callable[..., DictConfig]
ARGUMENTS = [*TINY, "schedule.epochs=3"]


@pytest.fixture(scope="module")
def undisturbed(fork_server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a run that nothing disturbed, and its metrics.csv."""
    runs = tmp_path_factory.mktemp("undisturbed")
    done = Command(fork_server, runs, ["train.py", *ARGUMENTS, f"runs_dir={runs}"], os.environ).wait()
    assert done.returncode == 0, done.stderr
    (record,) = records(runs)
    return record | {"csv": (runs / record["run_id"] / "metrics.csv").read_text()}


def checked(runs: Path, expected: dict[str, Any]) -> None:
    (record,) = records(runs)
    assert (record["status"], record["metrics"]) == ("finished", expected["metrics"])
    rows = [line.split(",")[:3] for line in (runs / record["run_id"] / "metrics.csv").read_text().splitlines()]
    assert rows == [line.split(",")[:3] for line in expected["csv"].splitlines()]
    leftover = [path.name for path in (runs / record["run_id"]).rglob(".*")]
    assert leftover == []


FAULTS = [
    (call, name, number)
    for call in ("open", "write", "fsync", "replace")
    for name in ("result.json", "metrics.csv", "config.yaml", "best.ckpt", "next.ckpt", "per_image.npz", "samples.png")
    for number in ((1, 2) if name in ("result.json", "metrics.csv", "best.ckpt", "next.ckpt") else (1,))
]


QUICK = ("write", "next.ckpt", 2)  # the others are marked slow


@pytest.mark.parametrize(
    ("call", "name", "number"),
    [fault if fault == QUICK else pytest.param(*fault, marks=pytest.mark.slow) for fault in FAULTS],
)
def test_a_fault_of_the_disk_is_one_line_and_the_run_resumes_to_the_same_numbers(
    call: str,
    name: str,
    number: int,
    undisturbed: dict[str, Any],
    composed: Composed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first or the second time that a file of this name is written."""
    cfg, count, failing = composed(*ARGUMENTS, f"runs_dir={tmp_path / 'runs'}"), 0, False
    real = {"open": Path.open, "fsync": os.fsync, "replace": os.replace}

    def fault() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(bytes(data)[: len(data) // 2])
            fault()

    def open_(path: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        nonlocal count, failing
        mine = "w" in mode and path.name.startswith(f".{name}.")
        count += mine
        failing = mine and count == number
        if failing and call == "open":
            fault()
        file = real["open"](path, mode, *arguments, **keywords)
        return Full(file) if failing and call == "write" else file

    def fsync(file: int) -> None:
        if failing and call == "fsync":
            fault()
        real["fsync"](file)

    def replace(source: Any, target: Any) -> None:
        if failing and call == "replace" and Path(target).name == name:
            fault()
        real["replace"](source, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", open_)
        broken.setattr(os, "fsync", fsync)
        broken.setattr(os, "replace", replace)
        with pytest.raises(SystemExit) as stop, one_line_errors():
            run(cfg)
    assert stop.value.code == 1
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert said.endswith(f"{name}: No space left on device")
    run(cfg)
    checked(tmp_path / "runs", undisturbed)


def stopped(runs: Path) -> Path:
    """Make the one run there one that was killed before it was measured; gives its checkpoints' folder."""
    (record,) = records(runs)
    folder = runs / record["run_id"]
    (folder / "result.json").write_text(json.dumps(record | {"status": "running"}))
    return folder / "checkpoints"


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    undisturbed: dict[str, Any],
    composed: Composed,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 0.0)  # no saving is worth skipping
    cfg = composed(*ARGUMENTS, f"runs_dir={tmp_path / 'runs'}")
    run(cfg)
    checkpoints = stopped(tmp_path / "runs")
    last = (checkpoints / "last.ckpt").read_bytes()
    (checkpoints / "last.ckpt").write_bytes(last[: len(last) // 2])
    for partial in ("checkpoints/.last.ckpt.123", ".result.json.123", "figures/.samples.png.123"):
        (checkpoints.parent / partial).write_bytes(b"of a process that was killed")
    run(cfg)
    said = (checkpoints.parent / "log.txt").read_text()
    assert "last.ckpt: can't be read: damaged or not a checkpoint" in said
    assert "everything after epoch 2 is trained again" in said and "previous.ckpt" in said
    checked(tmp_path / "runs", undisturbed)

    stopped(tmp_path / "runs")
    (checkpoints / "last.ckpt").unlink()  # killed between two moves
    run(cfg)
    checked(tmp_path / "runs", undisturbed)

    stopped(tmp_path / "runs")
    earlier = torch.load(checkpoints / "previous.ckpt", weights_only=True)
    del earlier["so_far"]
    for path in checkpoints.glob("*.ckpt"):
        path.write_bytes(b"nothing")
    torch.save(earlier, checkpoints / "previous.ckpt")
    with pytest.raises(SystemExit), one_line_errors():
        run(cfg)
    (said,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    assert "last.ckpt: can't be read" in said and "previous.ckpt: expected a checkpoint of this version" in said
    assert said.endswith("move them away to train from the start")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_happens_after_the_result_is_written_does_not_cost_it(
    error: BaseException, undisturbed: dict[str, Any], composed: Composed, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def close(self: MetricsCSV, failed: bool) -> None:
        raise error

    monkeypatch.setattr(MetricsCSV, "close", close)
    with pytest.raises((OSError, SystemExit)):
        run(composed(*ARGUMENTS, f"runs_dir={tmp_path / 'runs'}"))
    checked(tmp_path / "runs", undisturbed)


def test_checkpoints_do_not_pass_through_the_temporary_directory(
    undisturbed: dict[str, Any], composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, refuse)
    run(composed(*ARGUMENTS, f"runs_dir={tmp_path / 'runs'}"))
    checked(tmp_path / "runs", undisturbed)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_was_there_stays_if_it_can_not_be_replaced(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "result.json"
    write_atomically(path, "before")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match=r"Input/output error: .*/result.json'$"):
        write_atomically(path, "after")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_folder_with_the_record_of_another_run_is_not_taken_for_finished(
    composed: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    first, other = run(composed(*tiny)), resolve(composed(*tiny, "seed=7"))
    shutil.copytree(tmp_path / "runs" / first.run_id, other.folder)
    with pytest.raises(
        UserError, match=f"{other.run_id}: expected the record of this run, found that of {first.run_id}"
    ):
        run(composed(*tiny, "seed=7"))


@pytest.mark.parametrize("name", ["result.json", ".evaluation-0a1b2c3d"])
def test_what_a_killed_process_left_is_removed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    write_atomically(tmp_path / name, "kept")
    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(Killed):
        write_atomically(tmp_path / name, "partial")
    remove_partial_files(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_work_continues(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    said: list[str] = []

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("iwae_lab.console.locks.log.warning", lambda text, *values: said.append(text % values))
    with locked(tmp_path / "a.lock", "a run"):
        pass
    assert said == [f"the file system of {tmp_path} has no locks: do not start a second process on a run"]
