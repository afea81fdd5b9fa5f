"""The record of a run: its identity, its folder's name, and result.json."""

import csv
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from iwae_lab.errors import UserError

__all__ = [
    "NOT_HASHED",
    "Record",
    "fingerprint",
    "read_metrics",
    "read_record",
    "run_id",
    "writable",
    "write_atomically",
]

# Keys that change where and how fast a run computes, not what.
NOT_HASHED = (
    "logger",
    "accelerator",
    "trainer",
    "runs_dir",
    "data_dir",
    "threads",
    "diagnostics",
    "force",
    "compile",
)
_PACKAGES = ("iwae-lab", "torch", "pytorch-lightning", "hydra-core", "omegaconf", "numpy")


@dataclass
class Record:
    """What result.json holds. Metrics are in nats; README lists them."""

    run_id: str
    dataset: str
    binarization: str
    protocol: str
    model: str
    objective: str
    k: int
    schedule: str
    seed: int
    epochs: int
    config: dict[str, Any]
    status: str = "running"
    error: str | None = None
    precision: str = "32"
    """of the matrix products of training"""
    threads: int = 1
    """on the CPU"""
    steps: int = 0
    train_seconds: float = 0.0
    images_per_second: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: _versions())
    git: dict[str, Any] | None = field(default_factory=lambda: _git())
    started: str = field(default_factory=lambda: now())
    finished: str | None = None

    def write(self, folder: Path) -> None:
        """Write result.json, whole or not at all."""
        write_atomically(folder / "result.json", json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def read_record(folder: Path) -> Record:
    """The record in a run folder. Raises `UserError` if there is none that can be read."""
    path = folder / "result.json"
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "passes" in content:  # now "epochs"
            raise UserError(f"{path}: written by an older version of iwae_lab, which this one can't read")
        return Record(**content)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: expected the record of a run ({error})") from None


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv, without their empty cells; none where there is no such file."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a temporary name, then move."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def writable(folder: Path) -> bool:
    """Whether files can be written into `folder`, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def fingerprint(config: dict[str, Any]) -> str:
    """Eight hex digits over everything in a resolved configuration that changes the result."""
    identity = {key: value for key, value in config.items() if key not in NOT_HASHED}
    if identity["init_from"] is not None:
        identity["init_from"] = read_record(Path(identity["init_from"])).run_id
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def run_id(config: dict[str, Any]) -> str:
    """<dataset>-<model>-<objective>-k<k>-s<seed>-<hash8>."""
    names = "-".join(config[group]["name"] for group in ("dataset", "model", "objective"))
    return f"{names}-k{config['k']}-s{config['seed']}-{fingerprint(config)}"


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def _git() -> dict[str, Any] | None:
    """Commit of the code and whether it was changed since; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
