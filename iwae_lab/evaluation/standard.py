"""What every record holds of a trained model."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iwae_lab.evaluation import keys
from iwae_lab.evaluation.active_units import ActiveUnits, WithoutUnits, active_units, authors_counts
from iwae_lab.evaluation.diagnostics import diagnose
from iwae_lab.evaluation.images import pick
from iwae_lab.evaluation.kept import Kept
from iwae_lab.evaluation.likelihood import Likelihood, likelihood, standard_error
from iwae_lab.evaluation.overfitting import Overfitting, overfitting
from iwae_lab.models.base import LatentVariableModel

__all__ = ["VAL_K", "StandardResults", "standard_results"]

log = logging.getLogger("iwae_lab")

VAL_K = 100  # samples of val/nll, the same for every objective and k
ACTIVE_ONLY_K = 500  # at most, without inactive units: a tenth of the time of L_5000
KL_K = 50  # samples of the KL of units, which is a mean over all images too
TOLERANCE = 0.01  # nats by which a test NLL in bf16 may differ from that in fp32
TRIED_IMAGES, TRIED_K = 2000, 500  # at most, to measure that difference


@dataclass(frozen=True)
class StandardResults:
    """The results of one model on the draws of a protocol."""

    test: Likelihood
    """bounds of the test images"""
    active_only: Tensor
    """L̂ of the test images under the model without its inactive units, float64 [images], nats"""
    active_only_k: int
    """samples of `active_only`; `test` has a bound with as many"""
    val: Likelihood
    """L̂_100 of the validation images, as throughout training"""
    units: ActiveUnits
    """on the test images"""
    authors_counts: list[int]
    """active units per layer as the paper's authors count them, on training images"""
    informative: list[int]
    """units per layer whose KL on the test images is above 0.01 nats"""
    overfitting: Overfitting
    precision: str
    """matrix products behind the test bounds: 32 or bf16"""

    def metrics(self) -> dict[str, Any]:
        """Metrics for the record; nats."""
        intervals, sets = self.units.intervals(), self.overfitting
        metrics = {
            keys.TEST_NLL: self.test.nll,
            keys.TEST_NLL_SE: self.test.nll_se,
            keys.TEST_NLL_K: self.test.k,
            keys.TEST_ELBO: self.test.elbo.mean().item(),
            keys.TEST_ESS: self.test.ess.mean().item(),
            keys.TEST_ACTIVE_UNITS: self.units.counts,
            keys.TEST_ACTIVE_UNITS_LOW: [low for low, _ in intervals],
            keys.TEST_ACTIVE_UNITS_HIGH: [high for _, high in intervals],
            keys.TEST_ACTIVE_UNITS_AUTHORS: self.authors_counts,
            keys.TEST_UNITS_BY_KL: self.informative,
            keys.TEST_UNIT_VARIANCES: [variances.tolist() for variances in self.units.variances],
            keys.TEST_NLL_ACTIVE_ONLY: -self.active_only.mean().item(),
            keys.TEST_NLL_ACTIVE_ONLY_K: self.active_only_k,
            keys.VAL_NLL: self.val.nll,
            keys.OVERFITTING_K: sets.k,
            keys.OVERFITTING_IMAGES: len(sets.train),
            keys.OVERFITTING_GAP: sets.gap,
            keys.OVERFITTING_GAP_SE: sets.gap_se,
        }
        for name, bound in (("train", sets.train), ("val", sets.val), ("test", sets.test)):
            metrics[f"{keys.OVERFITTING_NLL}_{name}"] = -bound.mean().item()
        for k, bound in self.test.bounds.items():
            if k < self.test.k:
                metrics |= {keys.nll_at(k): -bound.mean().item(), keys.nll_se_at(k): standard_error(bound)}
        if (unreliable := self.test.unreliable) is not None:
            metrics[keys.TEST_PARETO] = unreliable
        return metrics

    def per_image(self) -> dict[str, Tensor]:
        """Values per test image by name, in the images' order, float64 on the CPU."""
        return self.test.per_image() | {f"bound_{self.active_only_k}_active_only": self.active_only.cpu()}


@torch.no_grad()
def standard_results(
    model: LatentVariableModel,
    test: Tensor,
    val: Tensor,
    train: Tensor,
    k: int,
    compile: str = "false",
    precision: str = "32",
    progress: Callable[[float], None] = lambda fraction: None,
    kept: Kept | None = None,
) -> StandardResults:
    """Measure `model` on binary images [images, pixels] with k samples per image (Burda et al. 2016, table 1).

    compile: whether to compile the log-weights, see `Compiled`.
    precision: of the matrix products of these bounds; bf16 falls back to 32 if it moves L_500 by more than `TOLERANCE`.
    kept: see `likelihood`; what is not a bound is computed again.
    """
    model = model.eval()
    if precision == "bf16" and not _is_harmless(model, test, k):
        precision = "32"
    units = active_units(model, test)
    active_only_k = min(k, ACTIVE_ONLY_K)
    all_active = all(bool(active.all()) for active in units.active)
    compared = len(val) + min(len(train), len(test))
    weighed = len(test) * k, compared * active_only_k, len(test) * active_only_k
    total = sum(weighed[:2] if all_active else weighed)
    test_bounds = likelihood(
        model, test, k, compile=compile, precision=precision, progress=lambda n: progress(n * k / total), kept=kept
    )
    sets = overfitting(
        model, train, val, test_bounds, compile, precision,
        lambda done: progress((weighed[0] + done * weighed[1]) / total), kept,
    )  # fmt: skip
    active_only = test_bounds.bounds[active_only_k]
    if not all_active:
        without = WithoutUnits(model, units.active, units.means)
        active_only = likelihood(
            without, test, active_only_k, compile=compile, precision=precision,
            progress=lambda n: progress((sum(weighed[:2]) + n * active_only_k) / total), kept=kept,
        ).bound  # fmt: skip
    return StandardResults(
        test_bounds,
        active_only,
        active_only_k,
        likelihood(model, val, VAL_K, kept=kept),
        units,
        authors_counts(model, train),
        diagnose(model, test, KL_K, batch=100).informative,
        sets,
        precision,
    )


def _is_harmless(model: LatentVariableModel, images: Tensor, k: int) -> bool:
    """Whether bf16 moves the NLL of some of `images`, with the same noise, by at most `TOLERANCE`."""
    images, k = images[pick(TRIED_IMAGES, len(images))], min(k, TRIED_K)
    error = likelihood(model, images, k, precision="bf16").nll - likelihood(model, images, k).nll
    harmless = abs(error) <= TOLERANCE
    log.info(
        "precision=bf16: off by %+.4f nats (L_%d, %d images)%s",
        error, k, len(images), "" if harmless else f", more than {TOLERANCE}, so the test NLL is in fp32",
    )  # fmt: skip
    return harmless
