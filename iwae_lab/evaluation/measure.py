"""Everything that is measured of a trained model, as the record holds it."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iwae_lab.evaluation.active_units import ActiveUnits, active_units
from iwae_lab.evaluation.likelihood import Likelihood, likelihood
from iwae_lab.model import LatentVariableModel

__all__ = ["VAL_K", "Measurements", "measure"]

log = logging.getLogger("iwae_lab")

VAL_K = 100  # samples of val/nll, the same for every objective and k
TOLERANCE = 0.01  # nats by which a test NLL in bf16 may differ from that in fp32
TRIED_IMAGES, TRIED_K = 2000, 500  # at most, to see by how much it does


@dataclass(frozen=True)
class Measurements:
    """Of one model on the test and validation draws of a protocol."""

    test: Likelihood
    """L̂_k and ELBO of the test images"""
    test_active_only: Likelihood
    """L̂_k of the model without its inactive units"""
    val: Likelihood
    """L̂_100 of the validation images, as throughout training"""
    units: ActiveUnits
    """on the test images"""
    precision: str
    """of the matrix products behind the test bounds: 32 or bf16"""

    def metrics(self) -> dict[str, Any]:
        """Under the record's names; nats."""
        return {
            "test/nll": self.test.nll,
            "test/nll_se": self.test.nll_se,
            "test/nll_k": self.test.k,
            "test/elbo": self.test.elbo.mean().item(),
            "test/ess": self.test.ess.mean().item(),
            "test/active_units": self.units.counts,
            "test/unit_variances": [variances.tolist() for variances in self.units.variances],
            "test/nll_active_only": self.test_active_only.nll,
            "val/nll": self.val.nll,
        }


@torch.no_grad()
def measure(
    model: LatentVariableModel,
    test: Tensor,
    val: Tensor,
    k: int,
    compile: str = "false",
    precision: str = "32",
    progress: Callable[[float], None] = lambda fraction: None,
) -> Measurements:
    """Measure `model` on binary images [images, pixels] with k samples an image (Burda et al. 2016, table 1).

    compile: whether to compile the log-weights, as `Compiled` has it.
    precision: of the matrix products of the test NLL; bf16 gives way to 32 if it moves L̂_k by more than `TOLERANCE`.
    """
    model = model.eval()
    if precision == "bf16" and not _is_harmless(model, test, k):
        precision = "32"
    units = active_units(model, test)
    all_active = all(bool(active.all()) for active in units.active)
    share = 1.0 if all_active else 0.5  # of the work, done by the first of one or two evaluations
    bounds = functools.partial(likelihood, images=test, k=k, compile=compile, precision=precision)
    whole = active_only = bounds(model, progress=lambda n: progress(share * n / len(test)))
    if not all_active:
        pruned = model.without_units(units.active, units.means)
        active_only = bounds(pruned, progress=lambda n: progress(0.5 + 0.5 * n / len(test)))
    return Measurements(whole, active_only, likelihood(model, val, VAL_K), units, precision)


def _is_harmless(model: LatentVariableModel, images: Tensor, k: int) -> bool:
    """Whether bf16 moves the NLL of some of `images`, with the same noise, by at most `TOLERANCE`."""
    images, k = images[:TRIED_IMAGES], min(k, TRIED_K)
    error = likelihood(model, images, k, precision="bf16").nll - likelihood(model, images, k).nll
    harmless = abs(error) <= TOLERANCE
    log.info(
        "precision=bf16: off by %+.4f nats (L_%d, %d images)%s",
        error, k, len(images), "" if harmless else f", more than {TOLERANCE}, so the test NLL is in fp32",
    )  # fmt: skip
    return harmless
