"""Several seeds trained at once (`stack=4`): the training leaves a checkpoint in the folder of each seed's run."""

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from iwae_lab.console.errors import UserError, require
from iwae_lab.console.locks import locked
from iwae_lab.evaluation.keys import EPOCH
from iwae_lab.loggers.metrics_csv import MetricsCSV
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.runs.experiment import Experiment
from iwae_lab.runs.record import Record
from iwae_lab.training.checkpoints import CheckpointFiles, load_checkpoint
from iwae_lab.training.fit import fit
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.module import Training
from iwae_lab.training.stacked import StackedGradients

__all__ = ["require_stackable", "train_stack"]

log = logging.getLogger("iwae_lab")


def require_stackable(experiment: Experiment, model: LatentVariableModel, image: Tensor) -> None:
    """Raise `UserError` if several models like this one can't be trained at once; image: [1, pixels]."""
    stack, objective = experiment.config.stack, copy.deepcopy(experiment.objective)
    name = experiment.config.objective["name"]
    require("stack", stack, objective.compilable, f"1 with objective={name}, whose steps differ in their operations")
    try:
        StackedGradients([Gradients(model, objective, experiment.config.k)])(image.unsqueeze(0))
    except RuntimeError as error:  # from torch.func
        raise UserError(f"stack={stack}: expected 1 with this model and objective={name} ({error})") from None


def train_stack(experiment: Experiment, record: Record) -> None:
    """Train the models of the stack of this run, unless that is done. Resumes where it was interrupted."""
    folders = experiment.stack()
    folder = experiment.training_folder
    with locked(experiment.folder.parent / ".locks" / f"{folder.name}-stack.lock", str(folder)):
        if _last(experiment.folder).exists():
            return
        log.info("training seeds %d to %d at once", min(folders), max(folders))
        trainings = [experiment.training(record.precision, seed) for seed in folders]
        trainings[0].train_together_with(trainings[1:])
        fit(trainings[0], experiment.images(len(folders)), experiment.device.type, [], folder)
        trained = load_checkpoint(_last(folder))
        del trained["others_so_far"]
        for training, of_seed in zip(trainings, folders.values(), strict=True):
            _hand_over(trained, training, of_seed, record)
        shutil.rmtree(folder)


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _hand_over(trained: dict[str, Any], training: Training, folder: Path, record: Record) -> None:
    """Leave in a run's folder what its own training would have: the curve, and a checkpoint after the last epoch.

    The optimizer's state in it is that of a new one, since some optimizers' can't be divided among the models.
    """
    if _last(folder).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    curve = MetricsCSV(folder=folder, record=record)
    curve.start([])
    for row in training.curve:
        curve.log_metrics(row, int(row[EPOCH]) * training.steps_per_epoch)
    curve.save()
    parts = {"model.": training.model, "objective.": training.objective}
    optimizer = training.optimizer.make([p for part in parts.values() for p in part.parameters()], 0.0)
    checkpoint = trained | {
        "state_dict": {name: t for prefix, part in parts.items() for name, t in part.state_dict(prefix=prefix).items()},
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {},
        "so_far": [training.seconds, training.images_seen, training.curve],
    }
    CheckpointFiles().save_checkpoint(checkpoint, _last(folder))
