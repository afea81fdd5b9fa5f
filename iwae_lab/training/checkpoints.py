"""The last checkpoint, from which training resumes as if it had not stopped, the one before it, and the best."""

import contextlib
import io
import logging
import math
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.keys import VAL_BOUND

__all__ = ["BestCheckpoint", "CheckpointFiles", "LastCheckpoint", "checkpoint_to_resume", "load_checkpoint", "part_of"]

log = logging.getLogger("iwae_lab")

LAST, PREVIOUS, DAMAGED = "last.ckpt", "previous.ckpt", "damaged.ckpt"


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state of a part of `Training` ("model." or "objective."), without the prefix in its names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; nothing in it is executed. Raises `UserError` if the file is not a checkpoint."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: expected the checkpoint of a run; a record alone has no weights") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from None
    except Exception as error:  # from zip, pickle or torch, whose advice is to trust the file
        raise UserError(f"{path}: can't be read: damaged or not a checkpoint ({type(error).__name__})") from None
    if not (
        isinstance(checkpoint, dict)
        and isinstance(checkpoint.get("state_dict"), dict)
        and isinstance(checkpoint.get("epoch"), int)
    ):
        raise UserError(f"{path}: expected the checkpoint of a run, found something else")
    return checkpoint


def checkpoint_to_resume(folder: Path, state: Mapping[str, Tensor]) -> Path | None:
    """The last checkpoint in `folder`, or None if there is none; if it is damaged, warns and returns the one before it.

    state: the training module's; a checkpoint must have its names and shapes. Raises `UserError` if there
    are checkpoints but training can resume from none of them.
    """
    problems: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            checkpoint = load_checkpoint(path)
            shapes = {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}
            if shapes != {name: tensor.shape for name, tensor in state.items()}:
                raise UserError(f"{path}: expected the model of this run, found another one")
            if not {"so_far", "random_states"} <= checkpoint.keys():
                raise UserError(f"{path}: expected a checkpoint of this version, found one of an earlier version")
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            log.warning("%s; everything after epoch %d is trained again", *problems, checkpoint["epoch"] + 1)
            os.replace(folder / LAST, folder / DAMAGED)  # else the next save would make it the previous one
        return path
    if problems:
        raise UserError(f"{'; '.join(problems)}; move them away to train from the start")
    return None


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all. The partial file is beside its target, not in a temporary directory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer())


class BestCheckpoint(Checkpoint):
    """Saves best.ckpt at the end of the epoch with the highest validation bound."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "best.ckpt"

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        *earlier, bound = [epoch.get(VAL_BOUND, -math.inf) for epoch in pl_module.curve]
        if bound > max(earlier, default=-math.inf):
            trainer.save_checkpoint(self.path)


class LastCheckpoint(Checkpoint):
    """Saves last.ckpt at the end of an epoch, with the states of all random generators, and keeps the previous one.

    Training that resumes from it ends as if it had never stopped. Skips epochs so that saving takes at most a twentieth
    of the time.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST
        self.next_save = 0.0
        self.random_states: dict[str, Any] | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        start = time.monotonic()
        if start < self.next_save and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            return
        new = self.path.with_name("next.ckpt")
        trainer.save_checkpoint(new)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path, self.path.with_name(PREVIOUS))
        os.replace(new, self.path)
        end = time.monotonic()
        self.next_save = end + 20 * (end - start)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        numpy_state: Any = np.random.get_state()
        checkpoint["random_states"] = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(pl_module.device) if pl_module.device.type == "cuda" else None,
            "numpy": (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
            "python": random.getstate(),
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.random_states = checkpoint["random_states"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.random_states is None:
            return
        torch.set_rng_state(self.random_states["torch"])
        if pl_module.device.type == "cuda" and self.random_states["cuda"] is not None:
            torch.cuda.set_rng_state(self.random_states["cuda"], pl_module.device)
        np.random.set_state(self.random_states["numpy"])
        random.setstate(self.random_states["python"])
        self.random_states = None
