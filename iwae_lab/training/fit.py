"""Training under Lightning's Trainer, from the start or from the last checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment

from iwae_lab.evaluation.keys import TRAIN_BOUND, is_diagnostic
from iwae_lab.loggers.base import RunLogger
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.training.batches import ImageData
from iwae_lab.training.checkpoints import BestCheckpoint, CheckpointFiles, LastCheckpoint, checkpoint_to_resume
from iwae_lab.training.module import Training, TrainingProgress

__all__ = ["TrainingResult", "fit"]

log = logging.getLogger("iwae_lab")


@dataclass(frozen=True)
class TrainingResult:
    """The result of training."""

    model: LatentVariableModel
    steps: int
    """optimizer steps"""
    seconds: float
    """training time without validation"""
    images_per_second: float
    curve: list[dict[str, float]]
    """the metrics of each epoch"""

    def metrics(self) -> dict[str, float]:
        """The metrics for the record: the last training bound and the last diagnostics."""
        latest = {key: value for row in self.curve for key, value in row.items()}
        return {key: value for key, value in latest.items() if key == TRAIN_BOUND or is_diagnostic(key)}


def fit(
    training: Training, data: ImageData, accelerator: str, trackers: Sequence[RunLogger], folder: Path
) -> TrainingResult:
    """Train, resuming from the last checkpoint in the run's `folder`. accelerator: "cpu" or "cuda"."""
    checkpoints = folder / "checkpoints"
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        plugins=[CheckpointFiles(), LightningEnvironment()],  # one run ignores Slurm's tasks and ranks
        logger=trackers,
        callbacks=[TrainingProgress(), BestCheckpoint(checkpoints), LastCheckpoint(checkpoints)],
        max_epochs=training.schedule.epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    last = checkpoint_to_resume(checkpoints, training.state_dict())
    if last:
        log.info("resuming from %s", last)
    try:
        trainer.fit(training, datamodule=data, ckpt_path=last, weights_only=True)
    except SystemExit as stop:  # Lightning turns Ctrl-C into it
        raise (stop.__context__ if isinstance(stop.__context__, KeyboardInterrupt) else stop) from None
    seconds = training.seconds
    rate = training.images_seen / max(seconds, 1e-9)  # a coarse clock may say zero
    return TrainingResult(training.model, trainer.global_step, seconds, rate, training.curve)
