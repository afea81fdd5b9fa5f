"""The record of a run, stored in result.json."""

import csv
import dataclasses
import json
import platform
import subprocess
import types
import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.keys import TEST_NLL

__all__ = [
    "EXTERNAL",
    "Record",
    "now",
    "read_metrics",
    "read_record",
]

_PACKAGES = ("iwae-lab", "torch", "pytorch-lightning", "hydra-core", "omegaconf", "numpy")


EXTERNAL = "external"  # the objective of weights trained elsewhere


@dataclass(frozen=True)
class Record:
    """The content of result.json; README.md lists the metrics."""

    run_id: str
    dataset: str
    binarization: str
    protocol: str
    model: str
    objective: str
    k: int
    """k in training"""
    schedule: str
    seed: int
    epochs: int
    config: dict[str, Any]
    """as composed"""
    identity: dict[str, Any]
    """what changes the result (identity.py); runs that differ only in seed and stack are repetitions"""
    status: str = "running"
    """running (or killed), interrupted, finished, failed or diverged (to NaN or infinity)"""
    error: str | None = None
    precision: str = "32"
    """training's matrix products"""
    threads: int = 1
    """CPU threads"""
    steps: int = 0
    train_seconds: float = 0.0
    images_per_second: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: _versions())
    git: dict[str, Any] | None = field(default_factory=lambda: _git())
    started: str = field(default_factory=lambda: now())
    """when it was started, or resumed, last"""
    finished: str | None = None

    def write(self, folder: Path) -> None:
        """Write result.json, whole or not at all."""
        write_atomically(folder / "result.json", json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def read_record(folder: Path) -> Record:
    """The record in a run folder, or beside an exported .safetensors. Raises `UserError` if there is none to read."""
    path = folder.with_suffix(".json") if folder.suffix == ".safetensors" else folder / "result.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict) or not _REQUIRED <= content.keys() <= _HINTS.keys():
            raise ValueError("found other fields")
        record = Record(**content)
        for f in dataclasses.fields(Record):
            _check_type(f.name, getattr(record, f.name), _HINTS[f.name])
        if record.status == "finished" and type(record.metrics.get(TEST_NLL)) not in (float, int):
            raise ValueError("it is finished but has no test/nll")
        return record
    except OSError as error:
        expected = f"a run's folder with its result.json, or its .safetensors with a .json beside it ({error.strerror})"
        raise UserError(f"{folder}: expected {expected}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected the record of a run ({error}); move it away to continue") from None


def _check_type(key: str, value: object, hint: Any) -> None:
    kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(hint) or (hint,)]
    if isinstance(hint, types.GenericAlias):
        kinds = [hint.__origin__]
    if float in kinds:
        kinds.append(int)
    if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{key} is {value!r}")


_HINTS = typing.get_type_hints(Record)
_REQUIRED = {f.name for f in dataclasses.fields(Record) if f.default is f.default_factory is dataclasses.MISSING}


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, without empty cells; an empty list if there is no such file.

    Raises `UserError` for a file of another kind or a truncated one.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows = [{key: float(value) for key, value in row.items() if value} for row in table]
            if table.fieldnames and "step" not in table.fieldnames:
                raise ValueError("no column step")
        if not all(float(row["step"]).is_integer() for row in rows):
            raise ValueError("a step that is no integer")
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(
            f"{path}: expected the metrics of a run ({type(error).__name__}: {error}); move it away to continue"
        ) from None
    return rows


def now() -> str:
    """The current time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a copy of the code that is not installed
        return "not installed"


def _git() -> dict[str, Any] | None:
    """The commit of the code, and whether the code has changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]  # many jobs ask at once
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
