"""The checkpoint from which training resumes as if it had not stopped."""

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

__all__ = ["LastCheckpoint", "part_of"]


def part_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state of one part of `Training`, "model." or "objective.", under its own names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


class LastCheckpoint(Checkpoint):
    """Keeps last.ckpt, with the state of every random generator, at the end of an epoch.

    Training that resumes from it ends as if it had never stopped. Skips epochs so that saving takes at most
    a twentieth of the time.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"
        self.next_save = 0.0
        self.random_states: dict[str, Any] | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        start = time.monotonic()
        if start < self.next_save and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            return
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        os.replace(partial, self.path)
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
