"""The evaluation of a trained model with the settings of the configuration."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iwae_lab.console.errors import UserError
from iwae_lab.console.progress import clock, shown
from iwae_lab.data.protocol import Data
from iwae_lab.evaluation import keys
from iwae_lab.evaluation.against_ais import AgainstAIS, against_ais
from iwae_lab.evaluation.ais import ais, estimated_seconds
from iwae_lab.evaluation.gaps import Gaps, encoder_gaps
from iwae_lab.evaluation.images import pick
from iwae_lab.evaluation.kept import Kept
from iwae_lab.evaluation.standard import StandardResults, standard_results
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.runs.config import Config

__all__ = ["Measurements", "measure", "require_measurable"]

log = logging.getLogger("iwae_lab")


def require_measurable(model: LatentVariableModel, data: Data, config: Config) -> None:
    """Raise `UserError` before training if the model can't be measured as `config` asks."""
    x = data.val[:1]
    how = dataclasses.replace(config.evaluation.ais.annealing(), chains=1, temperatures=1)
    attempts: list[tuple[str, int, Callable[[], object]]] = [
        ("ais", config.evaluation.ais.images, lambda: ais(model, x, how)),
        ("gaps", config.evaluation.gaps.images, lambda: encoder_gaps(model, x, torch.zeros(1), steps=0)),
    ]
    for key, images, attempt in attempts:
        try:
            if images:
                attempt()
        except UserError as error:
            raise UserError(f"evaluation.{key}.images={images}: {error}") from None


@dataclass(frozen=True)
class Measurements:
    """Everything measured of a trained model."""

    standard: StandardResults
    annealed: AgainstAIS | None
    """None without evaluation.ais.images"""
    gaps: Gaps | None
    """None without evaluation.gaps.images"""
    gaps_k: int
    """k of the L̂_k used as log p(x) in `gaps`; 0 if AIS was used"""
    picked: Tensor
    """positions of the test images of `annealed` and `gaps`, which are the first of them; int64"""

    def metrics(self) -> dict[str, Any]:
        """The metrics by their keys in the record."""
        return (
            self.standard.metrics()
            | (self.annealed.metrics() if self.annealed else {})
            | (self.gaps.metrics() | {keys.GAPS_K: self.gaps_k} if self.gaps else {})
        )

    def per_image(self) -> dict[str, Tensor]:
        """Results per test image by name, in the images' order, float64 on the CPU; some for the `picked` images."""
        parts = [part.per_image() for part in (self.annealed, self.gaps) if part]
        picked = {"picked": self.picked} if parts else {}
        return self.standard.per_image() | picked | {name: values for part in parts for name, values in part.items()}


def measure(
    model: LatentVariableModel,
    data: Data,
    config: Config,
    device: torch.device,
    precision: str = "32",
    kept: Kept | None = None,
) -> Measurements:
    """Measure a model that is on `device`. precision, kept: see `standard_results`.

    As log p(x), the encoder's gaps use the AIS bound if it covers all their images, otherwise L̂_k.
    """
    test, val, train = (part.to(device) for part in (data.test, data.val, data.train_draw()))
    with shown("evaluation") as progress:
        standard = standard_results(
            model, test, val, train, config.evaluation.k, config.compile, precision, progress, kept
        )
    evaluation = config.evaluation
    picked = pick(max(evaluation.ais.images, evaluation.gaps.images), len(test))
    some, log_p, log_p_k, annealed, gaps = test[picked], standard.test.bound[picked], standard.test.k, None, None
    if n := evaluation.ais.images:
        how, images = evaluation.ais.annealing(), some[:n]
        seconds = 3 * estimated_seconds(model, images, how)  # and both ways on as many drawn images
        log.info("annealing %d images: about %s", len(images), clock(seconds))
        with shown("annealing") as progress:
            annealed = against_ais(model, images, log_p[:n], how, progress, kept)
    if n := evaluation.gaps.images:
        images = some[:n]
        if annealed and len(annealed.sampled) >= len(images):
            log_p, log_p_k = annealed.annealed.bound, 0
        with shown("the encoder's gaps") as progress:
            gaps = encoder_gaps(model, images, log_p[:n], progress=progress, kept=kept)
    return Measurements(standard, annealed, gaps, log_p_k, picked)
