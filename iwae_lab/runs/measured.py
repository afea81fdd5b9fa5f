"""The evaluation of a trained model with the settings of the configuration."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iwae_lab.console.errors import UserError
from iwae_lab.console.progress import shown
from iwae_lab.data.protocol import Data
from iwae_lab.evaluation.against_ais import AgainstAIS, against_ais, estimated_seconds_of_both
from iwae_lab.evaluation.ais import Annealing, ais
from iwae_lab.evaluation.kept import Kept
from iwae_lab.evaluation.measure import Measurements, measure
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.runs.config import Config

__all__ = ["Measured", "measured", "require_measurable"]

log = logging.getLogger("iwae_lab")


def require_measurable(model: LatentVariableModel, data: Data, config: Config) -> None:
    """Raise `UserError` before training if the model can't be measured as `config` asks."""
    if images := config.evaluation.ais.images:
        try:
            ais(model, data.val[:1], Annealing(chains=1, temperatures=1))
        except UserError as error:
            raise UserError(f"evaluation.ais.images={images}: {error}") from None


@dataclass(frozen=True)
class Measured:
    """Everything that is measured of a trained model."""

    always: Measurements
    annealed: AgainstAIS | None
    """None without evaluation.ais.images"""

    def metrics(self) -> dict[str, Any]:
        """The metrics by their keys in the record."""
        return self.always.metrics() | (self.annealed.metrics() if self.annealed else {})

    def per_image(self) -> dict[str, Tensor]:
        """Results per test image by name, in the images' order, float64 on the CPU; AIS only of the first images."""
        return self.always.per_image() | (self.annealed.per_image() if self.annealed else {})


def measured(
    model: LatentVariableModel,
    data: Data,
    config: Config,
    device: torch.device,
    precision: str = "32",
    kept: Kept | None = None,
) -> Measured:
    """Measure a model that is on `device`. precision, kept: see `measure`."""
    test, val, train = (part.to(device) for part in (data.test, data.val, data.train_draw()))
    with shown("evaluation") as progress:
        always = measure(model, test, val, train, config.evaluation.k, config.compile, precision, progress, kept)
    if config.evaluation.ais.images == 0:
        return Measured(always, None)
    how, images = config.evaluation.ais.annealing(), test[: config.evaluation.ais.images]
    log.info("annealing %d images: about %.0f s", len(images), estimated_seconds_of_both(model, images, how))
    with shown("annealing") as progress:
        return Measured(always, against_ais(model, images, always.test.bound[: len(images)], how, progress, kept))
