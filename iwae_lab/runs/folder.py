"""A run's folder: who may work in it, what was there before, its checkpoint and its log."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import UserError
from iwae_lab.console.locks import locked
from iwae_lab.runs.record import Record, now, read_record
from iwae_lab.training.checkpoints import load_checkpoint

__all__ = ["claimed", "earlier_record", "read_checkpoint", "write_per_image"]

log = logging.getLogger("iwae_lab")


@contextlib.contextmanager
def claimed(folder: Path, force: bool) -> Iterator[None]:
    """Let one process at a time work on a run; a second one waits and says so.

    force: set aside what is there, unless it began so itself and was interrupted.
    """
    locks = folder.parent / ".locks"
    locks.mkdir(exist_ok=True)
    with locked(locks / f"{folder.name}.lock", str(folder)):
        if force and folder.exists() and not _resumes_forced(folder):
            kept = folder.parent / ".replaced"
            kept.mkdir(exist_ok=True)
            folder.rename(kept / f"{folder.name}-{now().replace(':', '')}")
        yield


def _resumes_forced(folder: Path) -> bool:
    """Whether the run there began with force=true itself, and was interrupted."""
    try:
        record = read_record(folder)
    except UserError:
        return False
    return record.status == "running" and bool(record.config["force"])


def earlier_record(folder: Path) -> Record | None:
    """The record that is there; None in a new folder. Raises `UserError` for one that can't be read."""
    return read_record(folder) if (folder / "result.json").exists() else None


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run. Raises `UserError` if it has none that can be read."""
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


def write_per_image(folder: Path, measured: Mapping[str, Tensor]) -> None:
    """Write what was measured of each test image, in their order, so that runs can be compared image by image."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: values.numpy() for name, values in measured.items()}
    np.savez(buffer, **arrays)
    write_atomically(folder / "per_image.npz", buffer.getvalue())
