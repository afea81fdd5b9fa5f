"""run(cfg): the whole job, from a composed configuration to the record of a run."""

import contextlib
import functools
import io
import logging
import math
import traceback
import typing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.environments import LightningEnvironment

from iwae_lab.console.atomic import writable, write_atomically
from iwae_lab.console.errors import Diverged, UserError, explain, require
from iwae_lab.console.progress import Meter
from iwae_lab.console.signals import interrupt_on_signals
from iwae_lab.data.base import Dataset, resolve_data_dir
from iwae_lab.data.protocol import Data, prepare
from iwae_lab.evaluation.measure import Measurements, measure
from iwae_lab.loggers.base import RunLogger, log_finished
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.precision import fastest_precision
from iwae_lab.objectives.annealing import annealings
from iwae_lab.objectives.base import Objective
from iwae_lab.runs.config import Config, build, check, first_stage
from iwae_lab.runs.identity import identity, run_id
from iwae_lab.runs.launch import job_threads, sweep_name
from iwae_lab.runs.record import Record, now, read_metrics, read_record
from iwae_lab.runs.summary import print_record
from iwae_lab.training import distributed
from iwae_lab.training.batches import ImageData
from iwae_lab.training.checkpoints import LastCheckpoint
from iwae_lab.training.figures import write_figures
from iwae_lab.training.module import Training, TrainingProgress
from iwae_lab.training.optimizers.base import OptimizerFactory
from iwae_lab.training.schedules import Schedule

__all__ = ["Parts", "log_to_console", "measure_model", "prepare_cpu", "read_checkpoint", "run"]

log = logging.getLogger("iwae_lab")


@dataclass(frozen=True)
class Parts:
    """What a configuration names, built and so checked, before there are data or a model."""

    config: Config
    dataset: Dataset
    objective: Objective
    schedule: Schedule
    optimizer: OptimizerFactory

    @classmethod
    def of(cls, config: Config) -> Self:
        """Raises `UserError` for a value that one of the parts refuses."""
        objective = _objective(config.objective)
        objective.couple(config.noise)
        return cls(
            config,
            build(Dataset, config.dataset, "dataset"),
            objective,
            build(Schedule, config.schedule, "schedule"),
            build(OptimizerFactory, config.optimizer, "optimizer"),
        )

    @property
    def data_dir(self) -> Path:
        """Where datasets are."""
        return resolve_data_dir(self.config.data_dir)

    @functools.cached_property
    def data(self) -> Data:
        """The data under the configuration's protocol."""
        return prepare(self.dataset, self.data_dir, self.config.evaluation.k, self.config.evaluation.images)

    def identity(self) -> dict[str, Any]:
        """What of the configuration changes the result."""
        return identity(self.config, self.dataset, self.data_dir, lambda: self.data)

    def model(self) -> LatentVariableModel:
        """A new model for images like those of `data`, initialised from torch's global generator."""
        return build(LatentVariableModel, self.config.model, "model", mean_image=self.data.mean_image())

    def device(self) -> torch.device:
        """Where to compute."""
        has_gpu = torch.cuda.is_available()
        if self.config.accelerator == "gpu" and not has_gpu:
            raise UserError("accelerator=gpu: expected auto or cpu, since torch sees no GPU here")
        return torch.device("cuda" if has_gpu and self.config.accelerator != "cpu" else "cpu")

    def devices(self) -> int:
        """On how many devices to train."""
        wanted, batch = self.config.trainer.devices, self.schedule.batch_size
        if self.device().type == "cuda" and wanted > torch.cuda.device_count():
            raise UserError(f"trainer.devices={wanted}: expected at most {torch.cuda.device_count()}, the GPUs here")
        if wanted > batch:
            raise UserError(f"trainer.devices={wanted}: expected at most schedule.batch_size={batch}")
        return wanted


def _objective(node: dict[str, Any]) -> Objective:
    """The objective of a node, of whose annealed parameters both ends are checked."""
    annealed = annealings(node)
    build(Objective, node | {name: annealing.end for name, annealing in annealed.items()}, "objective")
    made = build(Objective, node | {name: annealing.start for name, annealing in annealed.items()}, "objective")
    for name, annealing in annealed.items():
        can_change = isinstance(getattr(made, name, None), float)
        require(f"objective.{name}", node[name], can_change, "a value, as this parameter can't change with the epoch")
        made.anneal(name, annealing)
    return made


def run(cfg: DictConfig) -> Record:
    """Train and evaluate what `cfg` says, in a folder of its own; gives the record.

    A finished run is shown and left alone; an interrupted one goes on from its last checkpoint. A first
    stage that `init_from` describes is run first, unless it is finished.
    Raises `UserError`, before anything is written, for a configuration that can't be run.
    """
    config = check(cfg)
    require("runs_dir", config.runs_dir, writable(Path(config.runs_dir)), "a directory that can be written")
    parts = Parts.of(config)
    parts.devices()
    interrupt_on_signals()
    prepare_cpu(config)
    if isinstance(config.init_from, dict):
        first = run(first_stage(cfg))
        cfg = cfg.copy()
        cfg.init_from = config.init_from = str(Path(config.runs_dir) / first.run_id)
    what = parts.identity()
    name = run_id(what)
    folder = Path(config.runs_dir) / name
    log_to_console()
    with _locked(folder):
        if config.force and not _goes_on_forced(folder):
            _set_aside(folder)
        if (folder / "result.json").exists():
            record = read_record(folder)
            if record.status == "finished":
                log.info("this run is finished; force=true runs it again")
                log_finished(_trackers(config, record, folder), record, folder)
                print_record(record, folder)
                return record
            if record.status == "diverged":
                raise UserError(
                    f"{folder}: {record.error}; the same would happen again: expected other settings, such as a lower "
                    f"schedule.learning_rate, or force=true to train it from the start"
                )
            config.precision = record.precision  # it goes on as it began
        if config.precision == "auto":
            config.precision = fastest_precision(parts.device(), parts.schedule.batch_size, config.k)
        record = Record(
            run_id=name,
            dataset=config.dataset["name"],
            binarization=parts.dataset.binarization,
            protocol="",  # known once the data are loaded; no placeholder may look like an official one
            model=config.model["name"],
            objective=config.objective["name"],
            k=config.k,
            schedule=config.schedule["name"],
            seed=config.seed,
            epochs=parts.schedule.epochs,
            precision=config.precision,
            config=typing.cast(dict[str, Any], OmegaConf.to_container(cfg)),
            identity=what,
        )
        folder.mkdir(exist_ok=True)
        with _log_file(folder / "log.txt"), _recorded(record, folder):
            write_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg))
            _train_and_measure(parts, record, folder)
        print_record(record, folder)
        return record


def _train_and_measure(parts: Parts, record: Record, folder: Path) -> None:
    config = parts.config
    record.threads = torch.get_num_threads()
    data, training = parts.data, _prepare(parts)
    record.protocol = data.protocol
    log.info("%s", folder)
    with _started(_trackers(config, record, folder), read_metrics(folder)) as trackers:
        with distributed.helpers(parts.devices(), parts.device().type, _help, config, folder):
            trainer = _fit(training, parts, trackers, folder)
        record.steps = trainer.global_step
        record.train_seconds = training.seconds
        record.images_per_second = training.images_seen / training.seconds
        for key, value in training.last_metrics.items():
            if key == "train/bound" or key.startswith("diagnostics/"):
                record.metrics[key] = value

        model = training.model.to(parts.device())
        found = measure_model(model, data, config)
        record.metrics |= found.metrics()
        for key in ("val/nll", "test/nll"):
            if not math.isfinite(record.metrics[key]):
                raise Diverged(f"{key} of the trained model is {record.metrics[key]}")
        _write_per_image(folder / "per_image.npz", found)
        figures = write_figures(folder / "figures", model, data.val, data.shape, found.units)
        for tracker in trackers:
            tracker.log_result(record, figures)


def prepare_cpu(config: Config) -> None:
    """Compute with as many CPU threads as `threads` says; auto: all there are for this job.

    Denormals count as zero: importance weights underflow, and products of denormals take twice the time. For all
    threads this holds only if said before the first product.
    """
    torch.set_num_threads(job_threads() if config.threads == "auto" else int(config.threads))
    torch.set_flush_denormal(True)


def _prepare(parts: Parts) -> Training:
    """What is to be trained, the same in every process."""
    config = parts.config
    pl.seed_everything(config.seed, verbose=False)
    training = Training(
        parts.model(),
        parts.objective,
        parts.optimizer,
        parts.schedule,
        config.k,
        compile=config.compile,
        precision=config.precision,
        diagnostics=config.diagnostics,
    )
    if config.init_from is not None:
        training.start_from(read_checkpoint(Path(config.init_from)))
    return training


def _help(config: Config, folder: Path) -> None:
    """What the process of another device does for the run in `folder`."""
    torch.set_flush_denormal(True)
    parts = Parts.of(config)
    _fit(_prepare(parts), parts, [], folder)


def _trackers(config: Config, record: Record, folder: Path) -> list[RunLogger]:
    """The trackers of a run, not yet started."""
    return [
        build(RunLogger, node, f"logger.{key}", folder=folder, record=record, group=sweep_name())
        for key, node in config.logger.items()
    ]


@contextlib.contextmanager
def _started(trackers: list[RunLogger], rows: list[dict[str, float]]) -> Iterator[list[RunLogger]]:
    """The trackers, started after `rows` and open until the run ends, one way or the other."""
    with contextlib.ExitStack() as opened:
        for tracker in trackers:
            tracker.start(rows)
            opened.push(lambda kind, *_, tracker=tracker: tracker.close(failed=kind is not None))
        yield trackers


def _fit(training: Training, parts: Parts, trackers: list[RunLogger], folder: Path) -> pl.Trainer:
    config, data = parts.config, parts.data
    checkpoints = folder / "checkpoints"
    helping = distributed.rank() > 0
    if helping:
        callbacks: list[pl.Callback] = [distributed.OwnNoise(config.seed)]
    else:
        best = ModelCheckpoint(
            checkpoints, "best", "val/bound", mode="max", save_on_train_epoch_end=True, enable_version_counter=False
        )
        callbacks = [TrainingProgress(), best, LastCheckpoint(checkpoints)]
    trainer = pl.Trainer(
        accelerator=parts.device().type,
        devices=[distributed.rank()] if parts.device().type == "cuda" else 1,
        plugins=[LightningEnvironment()],  # Slurm's tasks and their ranks are no business of one run
        logger=trackers,
        callbacks=callbacks,
        max_epochs=parts.schedule.epochs,
        enable_checkpointing=not helping,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    last = checkpoints / "last.ckpt"
    if last.exists():
        log.info("going on from %s", last)
    try:
        trainer.fit(
            training,
            datamodule=ImageData(data.train, data.val, data.shape, parts.schedule.batch_size, parts.schedule.shuffle),
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    except SystemExit as stop:  # which Lightning makes of Ctrl-C
        raise (stop.__context__ if isinstance(stop.__context__, KeyboardInterrupt) else stop) from None
    return trainer


def measure_model(model: LatentVariableModel, data: Data, config: Config, precision: str = "32") -> Measurements:
    """`measure` on the draws of `data`, showing how far it is."""
    device = next(model.parameters()).device
    meter = Meter("evaluation")

    def progress(fraction: float) -> None:
        if meter.due():
            meter.show(fraction)

    try:
        test, val = data.test.to(device), data.val.to(device)
        return measure(model, test, val, config.evaluation.k, config.compile, precision, progress)
    finally:
        meter.close()


def _write_per_image(path: Path, found: Measurements) -> None:
    """Write what was measured of each test image, in their order, so that runs can be compared image by image."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: values.numpy() for name, values in found.per_image().items()}
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run. Raises `UserError` if it has none."""
    path = folder / "checkpoints" / "last.ckpt"
    if not path.exists():
        raise UserError(f"{path}: expected the checkpoint of a run")
    return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _recorded(record: Record, folder: Path) -> Iterator[None]:
    """Keep result.json true: running, then finished, or failed with the reason."""
    record.write(folder)
    try:
        yield
        record.status = "finished"
    except Exception as error:
        record.status = "diverged" if isinstance(error, Diverged) else "failed"
        record.error = explain(error)
        log.debug("%s", traceback.format_exc())  # to the file; the terminal gets one line
        error.add_note(f"log: {folder / 'log.txt'}")
        raise
    except BaseException:  # Ctrl-C, or SIGTERM, which Lightning would let end with exit code 0
        record.error = "interrupted"
        log.warning("interrupted; the same command goes on from the last checkpoint")
        raise SystemExit(1) from None
    finally:
        record.finished = None if record.status == "running" else now()
        record.write(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work on a run; a second one waits and says so."""
    locks = folder.parent / ".locks"
    locks.mkdir(exist_ok=True)
    lock = FileLock(locks / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is at work on %s; waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _goes_on_forced(folder: Path) -> bool:
    """Whether the run there began with force=true itself, and was interrupted."""
    try:
        record = read_record(folder)
    except UserError:
        return False
    return record.status == "running" and bool(record.config["force"])


def _set_aside(folder: Path) -> None:
    if folder.exists():
        kept = folder.parent / ".replaced"
        kept.mkdir(exist_ok=True)
        folder.rename(kept / f"{folder.name}-{now().replace(':', '')}")


def log_to_console() -> None:
    """Say on stderr what the package has to say, but not what Lightning always says."""
    no_news = "isinstance.treespec|smaller than the logging interval|is not empty|could not find the monitored"
    warnings.filterwarnings("ignore", f".*({no_news})")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    if not log.handlers:
        console = logging.StreamHandler()
        console.setLevel(logging.INFO)
        log.addHandler(console)


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Write our messages, Lightning's and warnings to `path` too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    sources = [log, logging.getLogger("pytorch_lightning"), logging.getLogger("py.warnings")]
    logging.captureWarnings(True)
    for source in sources:
        source.addHandler(handler)
    try:
        yield
    finally:
        for source in sources:
            source.removeHandler(handler)
        logging.captureWarnings(False)
        handler.close()
