"""Plots of active units, of the tightness of the bound, and of training."""

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from iwae_lab.console.images import rendered
from iwae_lab.evaluation.active_units import THRESHOLD, ActiveUnits
from iwae_lab.evaluation.keys import (
    AIS_GAIN,
    AIS_GAIN_SE,
    AIS_IMAGES,
    EPOCH,
    LOWEST,
    TEST_ACTIVE_UNITS,
    TEST_ACTIVE_UNITS_AUTHORS,
    TEST_ACTIVE_UNITS_HIGH,
    TEST_ACTIVE_UNITS_LOW,
    TEST_UNIT_VARIANCES,
    TRAIN_BOUND,
    VAL_BOUND,
    log10_variances,
    tightness_of,
)

__all__ = ["log_variances", "threshold_sensitivity", "tightness", "training_curve"]

COLORS = ("#4477aa", "#228833", "#aa3377", "#ee7733")  # one per layer
HIGHEST = 2  # log₁₀ of thresholds, which begin at `LOWEST`


def tightness(metrics: dict[str, Any]) -> Image.Image:
    """−L_k of the test images against k with standard errors, and the last one corrected by AIS."""
    figure = Figure(figsize=(5, 3.2))
    figure.subplots_adjust(0.15, 0.16, 0.97, 0.95)
    axes = figure.add_subplot()
    k, nll, se = zip(*tightness_of(metrics), strict=True)
    axes.errorbar(k, nll, se, fmt="o-", markersize=4, capsize=3, color=COLORS[0], label="−L̂ₖ ± standard error")
    if AIS_GAIN in metrics:
        lower, error = nll[-1] - metrics[AIS_GAIN], metrics[AIS_GAIN_SE]
        what = f"corrected by AIS on {metrics[AIS_IMAGES]} images"
        axes.axhline(lower, color="#cc3311", label=f"{lower:.2f} ± {error:.2f}: {what}")
        axes.axhspan(lower - error, lower + error, color="#cc3311", alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(k, [str(count) for count in k], fontsize=8)
    axes.set_xlabel("samples k")
    axes.set_ylabel("test NLL (nats)")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    return rendered(figure)


def threshold_sensitivity(metrics: dict[str, Any]) -> Image.Image:
    """The number of units per layer whose variance exceeds a threshold, against the threshold; at 0.01 also the count's
    bootstrap interval and the authors' count."""
    figure = Figure(figsize=(5, 3.2))
    figure.subplots_adjust(0.13, 0.16, 0.97, 0.92 - 0.06 * len(metrics[TEST_UNIT_VARIANCES]))
    axes = figure.add_subplot()
    at = math.log10(THRESHOLD)
    counts = (metrics[key] for key in (TEST_ACTIVE_UNITS, TEST_ACTIVE_UNITS_LOW, TEST_ACTIVE_UNITS_HIGH))
    layers = zip(log10_variances(metrics), *counts, metrics[TEST_ACTIVE_UNITS_AUTHORS], strict=True)
    for level, (logs, count, low, high, authors) in enumerate(layers):
        logs = sorted(min(log, HIGHEST) for log in logs)
        color = COLORS[level % len(COLORS)]
        axes.stairs(range(len(logs), -1, -1), [LOWEST, *logs, HIGHEST], color=color, linewidth=1.5, baseline=None)
        axes.errorbar(
            at, count, [[max(0, count - low)], [max(0, high - count)]], fmt="o", color=color, markersize=4, capsize=3,
            label=f"layer {level + 1}: {count} (95 %: {low}–{high})",
        )  # fmt: skip
        axes.plot(at, authors, "x", color=color, label=f"layer {level + 1}, authors' count: {authors}")
    axes.axvline(at, color="#cc3311", linestyle="--", linewidth=1)
    axes.set_xlabel("log₁₀ threshold of the variance (dashed: 0.01)")
    axes.set_ylabel("units above it")
    axes.set_ylim(0)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    axes.grid(alpha=0.3)
    return rendered(figure)


def log_variances(units: ActiveUnits) -> Image.Image:
    """A histogram of log A_u for each stochastic layer, with the threshold (Burda et al. 2016, figure 4)."""
    layers = len(units.variances)
    figure = Figure(figsize=(4.5 * layers, 3))
    figure.subplots_adjust(0.15 / layers, 0.17, 1 - 0.03 / layers, 0.9)  # half the time of a constrained layout
    for level, (variances, active) in enumerate(zip(units.variances, units.active, strict=True)):
        axes = figure.add_subplot(1, layers, level + 1)
        logs = variances.clamp(min=10**LOWEST).log10().cpu().numpy()
        axes.hist(logs, bins=30, range=(LOWEST, HIGHEST), color=COLORS[0])
        axes.axvline(math.log10(THRESHOLD), color="#cc3311", linestyle="--", label="0.01")
        axes.set_title(f"layer {level + 1}: {int(active.sum())} of {len(active)} units active", fontsize=10)
        axes.set_xlabel("log₁₀ variance of the posterior mean")
        axes.set_ylabel("units")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return rendered(figure)


def training_curve(rows: list[dict[str, float]]) -> Image.Image:
    """Training and validation bounds against epochs, from the metrics of each epoch."""
    figure = Figure(figsize=(5, 3.2))
    figure.subplots_adjust(0.17, 0.16, 0.97, 0.95)
    axes = figure.add_subplot()
    for key, label, style in ((TRAIN_BOUND, "training", "-"), (VAL_BOUND, "validation", "o-")):
        points = [(row[EPOCH], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), style, markersize=3, label=label)
    if len(rows) > 50:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epochs")
    axes.set_ylabel("bound L̂ₖ (nats)")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return rendered(figure)
