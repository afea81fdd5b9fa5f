"""Several seeds trained at once (`stack=4`): the training leaves a checkpoint in the folder of each seed's run."""

import copy
import dataclasses
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iwae_lab.console.errors import Diverged, UserError, require
from iwae_lab.console.locks import locked
from iwae_lab.evaluation.keys import EPOCH
from iwae_lab.loggers.metrics_csv import MetricsCSV
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.runs.experiment import Experiment
from iwae_lab.runs.folder import earlier_record
from iwae_lab.runs.record import Record, now
from iwae_lab.training.checkpoints import CheckpointFiles, load_checkpoint
from iwae_lab.training.fit import fit
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.module import Training
from iwae_lab.training.stacked import StackedGradients

__all__ = ["require_stackable", "train_stack"]

log = logging.getLogger("iwae_lab")


def require_stackable(experiment: Experiment, model: LatentVariableModel, x: Tensor) -> None:
    """Raise `UserError` if several models like this one can't be trained at once; x: [batch, pixels]."""
    stack, objective = experiment.config.stack, copy.deepcopy(experiment.objective)
    name = experiment.config.objective["name"]
    require("stack", stack, objective.compilable, f"1 with objective={name}, which is not compilable")
    try:
        StackedGradients([Gradients(model, objective, experiment.config.k)])(x.unsqueeze(0))
    except RuntimeError as error:  # from torch.func
        raise UserError(f"stack={stack}: expected 1 with this model and objective={name} ({error})") from None


def train_stack(experiment: Experiment, record: Record) -> None:
    """Train the models of the stack of this run, unless that is done. Resumes where it was interrupted.

    Raises `UserError` for models that differ in what is not trained, and if the stack is trained in another precision.
    Raises `Diverged`, and records all runs as diverged, if one of the models does.
    """
    runs = experiment.stack()
    folder = experiment.training_folder
    with locked(experiment.folder.parent / ".locks" / f"{folder.name}-stack.lock", str(folder)):
        known = earlier_record(experiment.folder)
        if known and known.status == "diverged":  # in the job that this one has waited for
            raise Diverged(known.error)
        for last in (_last(experiment.folder), _last(folder)):
            if last.exists() and (used := load_checkpoint(last)["precision"]) != record.precision:
                raise UserError(f"precision={record.precision}: expected {used}, in which this stack is trained")
        if not _last(experiment.folder).exists():
            _train(experiment, record, runs, folder)
        if all(_last(of_run).exists() for of_run in runs.values()):
            shutil.rmtree(folder, ignore_errors=True)


def _train(experiment: Experiment, record: Record, runs: dict[int, Path], folder: Path) -> None:
    log.info("training seeds %d to %d at once", min(runs), max(runs))
    trainings = [experiment.training(record.precision, seed) for seed in runs]
    for (name, first), *others in zip(*map(_constants, trainings), strict=True):
        if not all(torch.equal(first, tensor) for _, tensor in others):
            raise UserError(f"stack={len(runs)}: expected 1, since {name} is not trained and differs between models")
    trainings[0].stack_with(trainings[1:])
    try:
        fit(trainings[0], experiment.images(len(runs)), experiment.device.type, [], folder)
    except Diverged as error:
        message = f"seeds {min(runs)} to {max(runs)} at once: {error}"
        for (seed, of_run), training in zip(runs.items(), trainings, strict=True):
            if not _last(of_run).exists():
                _write_curve(training, of_run, record)
                diverged = experiment.of_seed(seed).record(record.precision)
                dataclasses.replace(diverged, status="diverged", error=message, finished=now()).write(of_run)
        shutil.rmtree(folder, ignore_errors=True)
        raise Diverged(message) from None
    trained = load_checkpoint(_last(folder))
    del trained["others_so_far"]
    for training, of_run in zip(trainings, runs.values(), strict=True):
        if not _last(of_run).exists():
            _hand_over(trained, training, folder / of_run.name, record)
            _last(of_run).parent.mkdir(parents=True, exist_ok=True)
            for name in ("metrics.csv", "checkpoints/last.ckpt"):
                os.replace(folder / of_run.name / name, of_run / name)


def _constants(training: Training) -> list[tuple[str, Tensor]]:
    """Buffers and frozen parameters by name."""
    return [*training.named_buffers(), *((n, p) for n, p in training.named_parameters() if not p.requires_grad)]


def _last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _hand_over(trained: dict[str, Any], training: Training, folder: Path, record: Record) -> None:
    """Write what the run's own training would have left: the curve, and a checkpoint after the last epoch.

    The optimizer's state in it is that of a new one, since some optimizers' can't be divided among the models.
    """
    _write_curve(training, folder, record)
    parts = {"model.": training.model, "objective.": training.objective}
    optimizer = training.optimizer.make([p for part in parts.values() for p in part.parameters()], 0.0)
    checkpoint = trained | {
        "state_dict": {name: t for prefix, part in parts.items() for name, t in part.state_dict(prefix=prefix).items()},
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {},
        "so_far": [training.seconds, training.images_seen, training.curve],
    }
    CheckpointFiles().save_checkpoint(checkpoint, _last(folder))


def _write_curve(training: Training, folder: Path, record: Record) -> None:
    folder.mkdir(exist_ok=True)
    curve = MetricsCSV(folder=folder, record=record)
    curve.start([])
    for row in training.curve:
        curve.log_metrics(row, int(row[EPOCH]) * training.steps_per_epoch)
    curve.save()
