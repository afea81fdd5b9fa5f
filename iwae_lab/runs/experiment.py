"""The experiment that a configuration describes: its parts, checked and built."""

import copy
import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iwae_lab.console.errors import UserError, require, require_one_of
from iwae_lab.console.explain import explain
from iwae_lab.data.base import Dataset, resolve_data_dir
from iwae_lab.data.protocol import Data, prepare
from iwae_lab.loggers.base import RunLogger
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.compiling import MODES
from iwae_lab.models.precision import PRECISIONS, fastest_precision
from iwae_lab.objectives.base import Objective
from iwae_lab.runs.config import Config, Node, check, first_stage, parameter_schedules
from iwae_lab.runs.folder import read_checkpoint
from iwae_lab.runs.identity import identity, run_id
from iwae_lab.runs.launch import job_threads
from iwae_lab.runs.record import Record, read_record
from iwae_lab.training.batches import ImageData
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.base import OptimizerFactory
from iwae_lab.training.schedules import Schedule

__all__ = ["Experiment", "resolve"]

BASES: dict[str, type] = {
    "dataset": Dataset,
    "model": LatentVariableModel,
    "objective": Objective,
    "schedule": Schedule,
    "optimizer": OptimizerFactory,
}
"""The base class of each group's options."""


@dataclass(frozen=True)
class Experiment:
    """A run before it starts. Images are loaded once, when first needed."""

    composed: dict[str, Any]
    """the configuration as Hydra composed it"""
    config: Config
    nodes: dict[str, Node[Any]]
    loggers: dict[str, Node[RunLogger]]
    dataset: Dataset
    objective: Objective
    schedule: Schedule
    optimizer: OptimizerFactory
    device: torch.device
    precision: str
    """training's matrix products: 32 or bf16"""
    threads: int
    """CPU threads"""
    first: Optional["Experiment"]
    """the stage to run before this one"""

    @property
    def data_dir(self) -> Path:
        """The folder of the datasets."""
        return resolve_data_dir(self.config.data_dir)

    @functools.cached_property
    def data(self) -> Data:
        """The data under the configuration's protocol."""
        return prepare(self.dataset, self.data_dir, self.config.evaluation.k, self.config.evaluation.images)

    @property
    def init_from(self) -> Path | None:
        """The folder of the run to start from, or the file it was exported to."""
        if self.first is not None:
            return self.first.folder
        return None if self.config.init_from is None else Path(self.config.init_from)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The part of the configuration that changes the result."""
        published = self.dataset.is_published(self.data_dir)
        content = None if published else self.data.content
        images, tests = self.config.evaluation.images, self.dataset.published_tests if published else None
        whole_test = images is not None and (self.data.whole_test if tests is None else images >= tests)
        return identity(self.config, self.nodes, content, whole_test, self._start)

    @property
    def _start(self) -> str | None:
        """The id of the run that `init_from` names; of exported weights, which bring no more, with their hash."""
        if self.init_from is None:
            return None
        if self.first is not None:
            return self.first.run_id
        start = read_record(self.init_from).run_id
        if self.init_from.suffix == ".safetensors":
            start += f"#{hashlib.sha256(self.init_from.read_bytes()).hexdigest()[:8]}"
        return start

    @property
    def run_id(self) -> str:
        return run_id(self.identity)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.runs_dir) / self.run_id

    def stack(self) -> dict[int, Path]:
        """The seeds whose models are trained at once, with this run's among them, and the folders of their runs."""
        first = self.config.seed - self.config.seed % self.config.stack
        seeds = range(first, first + self.config.stack)
        return {seed: self.folder.with_name(run_id(self.identity | {"seed": seed})) for seed in seeds}

    def of_seed(self, seed: int) -> "Experiment":
        """The same experiment with another seed."""
        config = dataclasses.replace(self.config, seed=seed)
        return dataclasses.replace(self, config=config, composed=self.composed | {"seed": seed})

    @property
    def training_folder(self) -> Path:
        """Where training keeps its checkpoints: the folder of the run, or one for the stack."""
        if self.config.stack == 1:
            return self.folder
        return self.folder.parent / ".stacks" / next(iter(self.stack().values())).name

    def prepare_cpu(self) -> None:
        """Set this process's number of threads, and treat denormal numbers as zero.

        Importance weights underflow, and products of denormals take twice the time. Call it before the first product:
        threads that already exist keep their setting.
        """
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)

    def model(self) -> LatentVariableModel:
        """A new model for images like those of `data`, initialised from torch's global generator."""
        return self.nodes["model"].build(mean_image=self.data.mean_image())

    def training(self, precision: str, seed: int) -> Training:
        """The training of a new model from `seed`, or from the weights of `init_from`. Seeds the global generators."""
        pl.seed_everything(seed, verbose=False)
        training = Training(
            self.model(),
            copy.deepcopy(self.objective),
            self.optimizer,
            self.schedule,
            self.config.k,
            compile=self.config.compile,
            precision=precision,
            diagnostics=self.config.diagnostics,
        )
        if self.init_from is not None:
            first = read_record(self.init_from).identity
            alike = {group for group in ("objective", "optimizer") if first.get(group) == self.identity[group]}
            training.start_from(read_checkpoint(self.init_from), alike)
        return training

    def images(self, stack: int = 1) -> ImageData:
        """What training reads."""
        data, schedule = self.data, self.schedule
        return ImageData(data.train, data.val, data.shape, schedule.batch_size, schedule.shuffle, stack)

    def trackers(self, record: Record, group: str | None) -> list[RunLogger]:
        """Trackers for the run of this record, not yet started. group: the name of its multirun."""
        given = {"folder": Path(self.config.runs_dir) / record.run_id, "record": record, "group": group}
        return [node.build(**given) for node in self.loggers.values()]

    def record(self, precision: str) -> Record:
        """The record at the start of the run, with training's `precision`."""
        config = self.config
        return Record(
            run_id=self.run_id,
            dataset=config.dataset["name"],
            binarization=self.dataset.binarization,
            protocol=self.data.protocol,
            model=config.model["name"],
            objective=config.objective["name"],
            k=config.k,
            schedule=config.schedule["name"],
            seed=config.seed,
            epochs=self.schedule.epochs,
            precision=precision,
            threads=self.threads,
            config=self.composed | {"init_from": None if self.init_from is None else str(self.init_from)},
            identity=self.identity,
        )


def resolve(cfg: DictConfig | dict[str, Any]) -> Experiment:
    """Build the experiment that a composed configuration describes. Reads no images and writes nothing.

    Raises `UserError` for a configuration that can't be run.
    """
    cfg = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), cfg))
    config = check(cfg)
    start = {name: schedule.start for name, schedule in parameter_schedules(config.objective).items()}
    given = {group: getattr(config, group) for group in BASES} | {"objective": config.objective | start}
    nodes: dict[str, Node[Any]] = {group: Node.of(given[group], group, base) for group, base in BASES.items()}
    schedule = nodes["schedule"].build()
    device = _device(config.accelerator)
    require_one_of("compile", config.compile, MODES)
    require_one_of("precision", config.precision, ("auto", *PRECISIONS))
    precision = config.precision
    if precision == "auto":
        precision = fastest_precision(device, schedule.batch_size, config.k)
    return Experiment(
        composed=cast(dict[str, Any], OmegaConf.to_container(cfg)),
        config=config,
        nodes=nodes,
        loggers={key: Node.of(node, f"logger.{key}", RunLogger) for key, node in config.logger.items()},
        dataset=nodes["dataset"].build(),
        objective=_objective(nodes["objective"], config),
        schedule=schedule,
        optimizer=nodes["optimizer"].build(),
        device=device,
        precision=precision,
        threads=job_threads() if config.threads == "auto" else int(config.threads),
        first=_first(cfg, config),
    )


def _objective(node: Node[Objective], config: Config) -> Objective:
    """The objective with the first values of its annealed parameters, and its noise."""
    objective = node.build()
    if not hasattr(objective, "annealed"):
        target = config.objective["_target_"]
        raise UserError(f"objective._target_={target}: expected __init__ to call super().__init__()")
    annealed = parameter_schedules(config.objective)
    if annealed:
        end = {name: schedule.end for name, schedule in annealed.items()}
        Node.of(config.objective | end, "objective", Objective).build()  # checks the last values
    for name, schedule in annealed.items():
        can_change = isinstance(getattr(objective, name, None), float)
        expected = "a value, as this parameter can't change with the epoch"
        require(f"objective.{name}", config.objective[name], can_change, expected)
        objective.anneal(name, schedule)
    objective.couple(config.noise)
    return objective


def _device(accelerator: str) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError("accelerator=gpu: expected auto or cpu, since torch sees no GPU here")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def _first(cfg: DictConfig, config: Config) -> Experiment | None:
    """The first stage, if `init_from` describes one. Raises `UserError` if it names an unfinished run."""
    try:
        if isinstance(config.init_from, dict):
            return resolve(first_stage(cfg))
        if isinstance(config.init_from, str) and (status := read_record(Path(config.init_from)).status) != "finished":
            raise UserError(f"{config.init_from}: expected a finished run, but its record says {status}")
    except (UserError, OmegaConfBaseException) as error:
        raise UserError(f"init_from: {explain(error)}") from None
    return None
