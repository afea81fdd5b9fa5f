"""The names of metrics in metrics.csv, records and trackers. Imports no library."""

import math
from typing import Any

EPOCH, MINUTES = "epoch", "minutes"
LEARNING_RATE, IMAGES_PER_SECOND = "learning_rate", "images_per_second"

TRAIN_BOUND, TRAIN_LOSS, TRAIN_ESS = "train/bound", "train/loss", "train/ess"

VAL_BOUND, VAL_NLL = "val/bound", "val/nll"
VAL_ACTIVE_UNITS = "val/active_units"  # with /1, /2, … of the layers

TEST = "test/"
TEST_NLL, TEST_NLL_SE, TEST_NLL_K = "test/nll", "test/nll_se", "test/nll_k"
TEST_ELBO, TEST_ESS = "test/elbo", "test/ess"
TEST_ACTIVE_UNITS, TEST_UNIT_VARIANCES = "test/active_units", "test/unit_variances"
TEST_NLL_ACTIVE_ONLY, TEST_NLL_ACTIVE_ONLY_K = "test/nll_active_only", "test/nll_active_only_k"
TEST_ACTIVE_UNITS_LOW, TEST_ACTIVE_UNITS_HIGH = "test/active_units_low", "test/active_units_high"
TEST_ACTIVE_UNITS_AUTHORS, TEST_UNITS_BY_KL = "test/active_units_authors", "test/units_by_kl"
OVERFITTING_GAP, OVERFITTING_GAP_SE = "test/overfitting/gap", "test/overfitting/gap_se"
OVERFITTING_K, OVERFITTING_IMAGES = "test/overfitting/k", "test/overfitting/images"
OVERFITTING_NLL = "test/overfitting/nll"  # with _train, _val, _test
TEST_PARETO = "test/pareto_k_above_0.7"
AIS_IMAGES, AIS_NLL, AIS_NLL_SE = "test/ais/images", "test/ais/nll", "test/ais/nll_se"
AIS_SAMPLING_NLL = "test/ais/sampling_nll"  # −L_k of the same images
AIS_GAIN, AIS_GAIN_SE = "test/ais/gain", "test/ais/gain_se"  # by how much AIS is above L_k
AIS_ESS, AIS_ACCEPTANCE = "test/ais/ess", "test/ais/acceptance"
AIS_GAP, AIS_GAP_SE = "test/ais/gap", "test/ais/gap_se"  # bidirectional
AIS_CHAINS, AIS_TEMPERATURES = "test/ais/chains", "test/ais/temperatures"
AIS_LEAPFROG_STEPS = "test/ais/leapfrog_steps"
GAPS_IMAGES = "test/gaps/images"
GAPS_APPROXIMATION, GAPS_APPROXIMATION_SE = "test/gaps/approximation", "test/gaps/approximation_se"
GAPS_AMORTIZATION, GAPS_AMORTIZATION_SE = "test/gaps/amortization", "test/gaps/amortization_se"
GAPS_K = "test/gaps/k"  # k of the L_k used as log p(x); 0: AIS was
TEST_LOG_UNIT_VARIANCES = "test/log10_unit_variances"  # with /1, /2, …; for trackers
LOWEST = -6  # log₁₀ of variances; smaller ones count as this

_DIAGNOSTICS = "diagnostics/"
DIAGNOSTICS_ESS, DIAGNOSTICS_KL = "diagnostics/ess", "diagnostics/kl"
SNR_GENERATIVE, SNR_INFERENCE = "diagnostics/snr/generative", "diagnostics/snr/inference"


def nll_at(k: int) -> str:
    """−L_k of the test images for a k other than the protocol's."""
    return f"{TEST_NLL}_{k}"


def nll_se_at(k: int) -> str:
    """The standard error of `nll_at`."""
    return f"{nll_at(k)}_se"


def tightness_of(metrics: dict[str, Any]) -> list[tuple[int, float, float]]:
    """k, −L_k of the test images and its standard error, for every k that a record has, ascending."""
    ks = sorted(int(k) for key in metrics if (k := key.removeprefix(f"{TEST_NLL}_")).isdigit())
    points = [(k, metrics[nll_at(k)], metrics[nll_se_at(k)]) for k in ks]
    return [*points, (metrics[TEST_NLL_K], metrics[TEST_NLL], metrics[TEST_NLL_SE])]


def log10_variances(metrics: dict[str, Any]) -> list[list[float]]:
    """log₁₀ A_u of the units of each stochastic layer, if a record has them; `LOWEST` for variances below it."""
    return [[math.log10(max(v, 10**LOWEST)) for v in layer] for layer in metrics.get(TEST_UNIT_VARIANCES, [])]


def of_layer(key: str, layer: int) -> str:
    """A metric of one stochastic layer, counted from 1 at the image."""
    return f"{key}/{layer}"


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are numbers; those of each stochastic layer under `of_layer`."""
    named: list[tuple[str, Any]] = []
    for key, value in metrics.items():
        if isinstance(value, list):
            named += [(of_layer(key, layer), entry) for layer, entry in enumerate(value, 1)]
        else:
            named.append((key, value))
    return {key: value for key, value in named if isinstance(value, int | float)}


def is_diagnostic(key: str) -> bool:
    """Whether diagnostics=true measures it."""
    return key.startswith(_DIAGNOSTICS)
