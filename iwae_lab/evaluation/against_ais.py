"""How far L_k is below log p(x) by annealed importance sampling, whose own error the bidirectional gap bounds."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from iwae_lab.console.errors import require
from iwae_lab.evaluation import keys
from iwae_lab.evaluation.ais import Annealed, Annealing, Sandwich, ais, bidirectional
from iwae_lab.evaluation.kept import Kept
from iwae_lab.evaluation.likelihood import standard_error
from iwae_lab.models.base import LatentVariableModel

__all__ = ["AgainstAIS", "against_ais"]


@dataclass(frozen=True)
class AgainstAIS:
    """Results on some test images and on as many drawn from the model."""

    how: Annealing
    annealed: Annealed
    sampled: Tensor
    """L̂_k of the same images, float64 [images], nats"""
    sandwich: Sandwich

    @property
    def gain(self) -> Tensor:
        """AIS minus L̂_k, float64 [images], nats; in expectation L̂_k is off by at least that."""
        return self.annealed.bound - self.sampled

    def metrics(self) -> dict[str, Any]:
        """Metrics for the record; nats."""
        return {
            keys.AIS_IMAGES: len(self.sampled),
            keys.AIS_NLL: -self.annealed.mean,
            keys.AIS_NLL_SE: self.annealed.se,
            keys.AIS_SAMPLING_NLL: -self.sampled.mean().item(),
            keys.AIS_GAIN: self.gain.mean().item(),
            keys.AIS_GAIN_SE: standard_error(self.gain),
            keys.AIS_ESS: self.annealed.ess.mean().item(),
            keys.AIS_ACCEPTANCE: self.annealed.acceptance.mean().item(),
            keys.AIS_GAP: self.sandwich.gap.mean().item(),
            keys.AIS_GAP_SE: standard_error(self.sandwich.gap),
            keys.AIS_CHAINS: self.how.chains,
            keys.AIS_TEMPERATURES: self.how.temperatures,
            keys.AIS_LEAPFROG_STEPS: self.how.leapfrog_steps,
        }

    def per_image(self) -> dict[str, Tensor]:
        """Values by name, float64 [images] on the CPU; `ais_gap` belongs to the images drawn from the model."""
        named = {f"ais_{name}": values for name, values in dataclasses.asdict(self.annealed).items()}
        return {name: values.cpu() for name, values in (named | {"ais_gap": self.sandwich.gap}).items()}


def against_ais(
    model: LatentVariableModel,
    images: Tensor,
    sampled: Tensor,
    how: Annealing,
    progress: Callable[[float], None] = lambda fraction: None,
    kept: Kept | None = None,
) -> AgainstAIS:
    """Anneal images [images, pixels] whose L̂_k is `sampled` [images]. Raises `UserError` for discrete latents
    and other shapes.

    kept: see `ais`.
    """
    require("sampled", list(sampled.shape), sampled.shape == images.shape[:1], f"shape [{len(images)}], one per image")
    annealed = ais(model, images, how, progress=lambda done: progress(done / 3), kept=kept)
    sandwich = bidirectional(model, len(images), how, progress=lambda done: progress((1 + 2 * done) / 3), kept=kept)
    return AgainstAIS(how, annealed, sampled, sandwich)
