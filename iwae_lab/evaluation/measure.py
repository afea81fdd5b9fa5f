"""Everything that is measured of a trained model, as the record holds it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iwae_lab.evaluation.active_units import ActiveUnits, active_units
from iwae_lab.evaluation.likelihood import Likelihood, likelihood
from iwae_lab.model import LatentVariableModel

__all__ = ["VALIDATION_K", "Measurements", "measure"]

VALIDATION_K = 100  # samples of val/nll, the same for every objective and k


@dataclass(frozen=True)
class Measurements:
    """Of one model on the test and validation draws of a protocol."""

    test: Likelihood
    """L̂_k and ELBO of the test images"""
    test_active_only: Likelihood
    """L̂_k of the model without its inactive units"""
    valid: Likelihood
    """L̂_100 of the validation images, as throughout training"""
    units: ActiveUnits
    """on the test images"""

    def metrics(self) -> dict[str, Any]:
        """Under the record's names; nats."""
        return {
            "test/nll": self.test.nll,
            "test/nll_se": self.test.nll_se,
            "test/nll_k": self.test.k,
            "test/elbo": self.test.elbo.mean().item(),
            "test/ess": self.test.effective_samples.mean().item(),
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
    compile: str = "false",
    progress: Callable[[float], None] = lambda fraction: None,
) -> Measurements:
    """Measure `model` on binary images [images, pixels] with k samples an image (Burda et al. 2016, table 1).

    compile: whether to compile the log-weights, as `Compiled` has it.
    """
    model = model.eval()
    units = active_units(model, test)
    all_active = all(bool(active.all()) for active in units.active)
    share = 1.0 if all_active else 0.5  # of the work, done by the first of one or two evaluations
    whole = active_only = likelihood(
        model, test, k, compile=compile, progress=lambda n: progress(share * n / len(test))
    )
    if not all_active:
        pruned = model.without_units(units.active, units.means)
        active_only = likelihood(
            pruned, test, k, compile=compile, progress=lambda n: progress(0.5 + 0.5 * n / len(test))
        )
    return Measurements(whole, active_only, likelihood(model, valid, VALIDATION_K), units)
