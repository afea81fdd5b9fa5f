"""A trained run, read from its folder or from an exported file."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from iwae_lab.console.errors import UserError, did_you_mean, require, require_one_of
from iwae_lab.console.explain import expected
from iwae_lab.data.protocol import Data
from iwae_lab.evaluation.images import require_images
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.runs.config import AIS, Config
from iwae_lab.runs.experiment import Experiment, resolve
from iwae_lab.runs.folder import read_checkpoint
from iwae_lab.runs.record import Record, read_record
from iwae_lab.runs.weights import load_named
from iwae_lab.training.checkpoints import part_of

__all__ = ["OVERRIDABLE", "TrainedRun", "load"]

log = logging.getLogger(__name__)

CHECKPOINTS = ("last", "best")
_AIS = tuple(f"evaluation.ais.{field.name}" for field in dataclasses.fields(AIS))
OVERRIDABLE = (
    "checkpoint",
    "evaluation.k",
    "evaluation.images",
    *_AIS,
    "evaluation.gaps.images",
    "diagnostics",
    "data_dir",
    "accelerator",
    "threads",
    "compile",
    "precision",
)


@dataclass(frozen=True)
class TrainedRun:
    """A run with its data and its model, ready to be evaluated."""

    record: Record
    experiment: Experiment
    data: Data
    model: LatentVariableModel

    def __repr__(self) -> str:
        return f"TrainedRun({self.record.run_id})"

    @classmethod
    def read(cls, folder: Path, overrides: Sequence[str] = ()) -> Self:
        """Read the run in `folder`, or exported to this .safetensors file, and apply `overrides` ("key=value").

        checkpoint=best is the one with the highest validation bound, instead of the last. An exported run lacks the
        state of its objective. Raises `UserError` for a folder without a trained run, overrides of keys that are fixed
        by training, and other images where a file of them has changed.
        """
        record, which = read_record(folder), "last"
        if record.status != "finished":
            log.warning("%s: this run is %s, so its model is not trained to the end", folder, record.status)
        cfg = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), record.config))
        cfg.diagnostics, cfg.init_from, cfg.precision = False, None, "32"  # those were for training
        allowed = (*OVERRIDABLE, *(["dataset.path"] if "path" in cfg.dataset else []))
        for override in overrides:
            key = override.partition("=")[0]
            if key not in allowed:
                listed = ", ".join(f"{known}=…" for known in allowed)
                raise UserError(f"{override}: expected one of {listed}{did_you_mean(key, list(allowed))}")
            if key == "checkpoint":
                which = override.partition("=")[2]
                require_one_of(key, which, CHECKPOINTS if folder.suffix != ".safetensors" else ("last",))
                continue
            try:
                cfg.merge_with_dotlist([override])
            except OmegaConfBaseException as error:
                raise UserError(f"{override}: {expected(str(error))}") from None
        checkpoint, experiment = read_checkpoint(folder, which), resolve(cfg)
        state, last_epoch = checkpoint["state_dict"], experiment.schedule.epochs - 1
        content = record.identity["dataset"].get("content", experiment.data.content)  # none of published images
        if experiment.data.content != content:
            raise UserError(f"dataset={record.dataset}: expected the images of the run ({content}), found others")
        objective, device = experiment.objective, experiment.device
        model = experiment.model()
        if folder.suffix == ".safetensors":
            load_named(model, part_of(state, "model."))
        else:
            try:
                model.load_state_dict(part_of(state, "model."))
                objective.load_state_dict(part_of(state, "objective."))
            except RuntimeError:
                raise UserError(f"{folder}: expected the checkpoint of the run in result.json, found another") from None
        objective.begin_epoch(checkpoint.get("epoch", last_epoch))
        objective.to(device)
        return cls(record, experiment, experiment.data, model.to(device).eval())

    @torch.no_grad()
    def log_weights(self, images: Tensor, k: int) -> Tensor:
        """log w [k, batch], nats, of k samples for each of the binary images [batch, pixels]."""
        return self.model.log_weights(self._seen(images), k)

    @torch.no_grad()
    def latents(self, images: Tensor, k: int = 100) -> list[Tensor]:
        """The posterior means of binary images [batch, pixels], one [batch, units] per stochastic layer.

        The first layer's are exact; those of higher layers are averages over k samples of the layers below.
        """
        require("k", k, k >= 1, "an integer of at least 1")
        lowest, *above = self.model.posteriors(self._seen(images), k)
        return [lowest.mean, *(q.mean.mean(0) for q in above)]

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Pixel probabilities [batch, pixels] given one posterior sample of each of the binary images."""
        return self.model.reconstruct(self._seen(images))

    def _seen(self, images: Tensor) -> Tensor:
        if isinstance(images, Tensor):
            images = images.to(self.experiment.device)
        require_images(self.model, images)
        return images.float()


def load(folder: str | Path, *overrides: str) -> TrainedRun:
    """Read the run in a folder, or one exported to a .safetensors file; see `TrainedRun.read`."""
    return TrainedRun.read(Path(folder), overrides)
