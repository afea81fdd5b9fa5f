"""Everything that is measured of a trained model, as the record holds it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iwae_lab.evaluation.active_units import ActiveUnits, active_units
from iwae_lab.evaluation.likelihood import Likelihood, likelihood
from iwae_lab.model import LatentVariableModel

__all__ = ["Measurements", "measure"]


@dataclass(frozen=True)
class Measurements:
    """Of one model on the test and validation draws of a protocol."""

    test: Likelihood
    """L̂_k and ELBO of the test images"""
    test_active_only: Likelihood
    """L̂_k of the model without its inactive units"""
    valid: Likelihood
    """L̂_k of the validation images"""
    units: ActiveUnits
    """on the test images"""

    def metrics(self) -> dict[str, Any]:
        """Under the record's names; nats."""
        return {
            "test/nll": self.test.nll,
            "test/nll_se": self.test.nll_se,
            "test/nll_k": self.test.k,
            "test/elbo": self.test.elbo.mean().item(),
            "test/active_units": self.units.counts,
            "test/unit_variances": [variances.tolist() for variances in self.units.variances],
            "test/nll_active_only": self.test_active_only.nll,
            "val/nll": self.valid.nll,
        }


@torch.no_grad()
def measure(
    model: LatentVariableModel,
    test: Tensor,
    valid: Tensor,
    k: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Measurements:
    """Measure `model` on binary images [images, pixels] with k samples an image (Burda et al. 2016, table 1)."""
    model = model.eval()
    units = active_units(model, test)
    pruned = model.without_units(units.active, units.means)
    done = 0

    def bounds(model: LatentVariableModel, images: Tensor) -> Likelihood:
        nonlocal done
        before = done
        found = likelihood(model, images, k, progress=lambda n: progress((before + n) / (2 * len(test) + len(valid))))
        done += len(images)
        return found

    return Measurements(bounds(model, test), bounds(pruned, test), bounds(model, valid), units)
