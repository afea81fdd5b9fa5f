"""The folder of a run: its lock, its earlier record, its checkpoint, its per-image results and its figures."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import UserError
from iwae_lab.console.images import write_png
from iwae_lab.console.locks import locked
from iwae_lab.evaluation.keys import EPOCH
from iwae_lab.runs.record import Record, now, read_metrics, read_record
from iwae_lab.runs.weights import read_tensors
from iwae_lab.training.checkpoints import load_checkpoint

__all__ = ["claimed", "earlier_metrics", "earlier_record", "read_checkpoint", "write_figures", "write_per_image"]

log = logging.getLogger("iwae_lab")


@contextlib.contextmanager
def claimed(folder: Path, force: bool) -> Iterator[None]:
    """Lock a run's folder; a second process says so and waits.

    force: move an existing folder to .replaced, unless it is itself a run with force=true that was interrupted.
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
    """Whether the folder holds a run that was started with force=true and was interrupted."""
    try:
        record = read_record(folder)
    except UserError:
        return False
    return record.status in ("running", "interrupted") and bool(record.config["force"])


def earlier_record(folder: Path) -> Record | None:
    """The record in a run's folder; None if there is none yet. Raises `UserError` for an unreadable or another one."""
    if not (folder / "result.json").exists():
        return None
    record = read_record(folder)
    if record.run_id != folder.name:
        raise UserError(f"{folder}: expected the record of this run, found that of {record.run_id}; move it away")
    return record


def read_checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    """The last or the best checkpoint of a run; an exported .safetensors has the model's state and nothing else.

    Raises `UserError` if there is none or it can't be read.
    """
    if folder.suffix == ".safetensors":
        return {"state_dict": {f"model.{name}": tensor for name, tensor in read_tensors(folder).items()}}
    return load_checkpoint(folder / "checkpoints" / f"{name}.ckpt")


def earlier_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of the epochs before the last checkpoint, each with its step; without a checkpoint, of metrics.csv.

    Raises `UserError` as `read_metrics` does.
    """
    try:
        checkpoint = read_checkpoint(folder)
    except UserError:
        checkpoint = {}
    if "so_far" not in checkpoint:
        return read_metrics(folder)
    *_, curve = checkpoint["so_far"]
    steps = checkpoint["global_step"] // (checkpoint["epoch"] + 1)
    return [{"step": steps * row[EPOCH], **row} for row in curve]


def write_per_image(folder: Path, measured: Mapping[str, Tensor]) -> None:
    """Write the results per test image, in the order of the images, so that runs can be compared image by image."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: values.numpy() for name, values in measured.items()}
    np.savez(buffer, **arrays)
    write_atomically(folder / "per_image.npz", buffer.getvalue())


def write_figures(folder: Path, figures: Mapping[str, Image.Image]) -> None:
    """Write figures by name as PNG files into the run's figures/."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, picture in figures.items():
        write_png(folder / "figures" / f"{name}.png", picture)
