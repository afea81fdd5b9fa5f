"""The pictures in a run's folder, of its model and of what was measured of it."""

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from iwae_lab.console.images import rendered, write_png
from iwae_lab.data.protocol import Data
from iwae_lab.evaluation.active_units import THRESHOLD, ActiveUnits
from iwae_lab.evaluation.keys import (
    AIS_GAIN,
    AIS_GAIN_SE,
    AIS_IMAGES,
    TEST_ACTIVE_UNITS,
    TEST_ACTIVE_UNITS_AUTHORS,
    TEST_ACTIVE_UNITS_HIGH,
    TEST_ACTIVE_UNITS_LOW,
    TEST_UNIT_VARIANCES,
    tightness_of,
)
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.training.figures import model_figures, training_curve
from iwae_lab.training.latents import latent_figures

__all__ = ["active_units", "tightness", "write_figures"]

COLORS = ("#4477aa", "#228833", "#aa3377", "#ee7733")  # of layers, in turn
LOWEST, HIGHEST = -6, 2  # log₁₀ of thresholds


def write_figures(
    folder: Path,
    model: LatentVariableModel,
    data: Data,
    units: ActiveUnits,
    metrics: dict[str, Any],
    curve: list[dict[str, float]] | None = None,
) -> dict[str, Image.Image]:
    """Write all figures of a measured model as PNG files into `folder`; returns them by name.

    units, metrics: as measured on the test images. curve: the metrics of each epoch, where it was trained here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = model_figures(model, data.val, data.shape, units)
    figures |= latent_figures(model, data.test, data.shape, units)
    figures |= {"tightness": tightness(metrics), "active_units": active_units(metrics)}
    if curve:
        figures["training_curve"] = training_curve(curve)
    for name, picture in figures.items():
        write_png(folder / f"{name}.png", picture)
    return figures


def tightness(metrics: dict[str, Any]) -> Image.Image:
    """−L_k of the test images against k with standard errors, and the NLL that AIS makes of the last."""
    figure = Figure(figsize=(5, 3.2))
    figure.subplots_adjust(0.15, 0.16, 0.97, 0.95)
    axes = figure.add_subplot()
    k, nll, se = zip(*tightness_of(metrics), strict=True)
    axes.errorbar(k, nll, se, fmt="o-", markersize=4, capsize=3, color=COLORS[0], label="−L̂ₖ ± standard error")
    if AIS_GAIN in metrics:
        lower, error = nll[-1] - metrics[AIS_GAIN], metrics[AIS_GAIN_SE]
        what = f"less what AIS adds to L̂ₖ on {metrics[AIS_IMAGES]} images"
        axes.axhline(lower, color="#cc3311", label=f"{lower:.2f} ± {error:.2f}: {what}")
        axes.axhspan(lower - error, lower + error, color="#cc3311", alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("samples k")
    axes.set_ylabel("test NLL (nats)")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    return rendered(figure)


def active_units(metrics: dict[str, Any]) -> Image.Image:
    """The number of units per layer whose variance exceeds a threshold, against the threshold; at 0.01 also the count's
    bootstrap interval and the authors' count."""
    figure = Figure(figsize=(5, 3.2))
    figure.subplots_adjust(0.13, 0.16, 0.97, 0.95)
    axes = figure.add_subplot()
    at = math.log10(THRESHOLD)
    counts = (metrics[key] for key in (TEST_ACTIVE_UNITS, TEST_ACTIVE_UNITS_LOW, TEST_ACTIVE_UNITS_HIGH))
    layers = zip(metrics[TEST_UNIT_VARIANCES], *counts, metrics[TEST_ACTIVE_UNITS_AUTHORS], strict=True)
    for level, (variances, count, low, high, authors) in enumerate(layers):
        logs = sorted(math.log10(min(max(variance, 10**LOWEST), 10**HIGHEST)) for variance in variances)
        color = COLORS[level % len(COLORS)]
        axes.stairs(range(len(logs), -1, -1), [LOWEST, *logs, HIGHEST], color=color, linewidth=1.5, baseline=None)
        axes.errorbar(
            at, count, [[max(0, count - low)], [max(0, high - count)]], fmt="o", color=color, markersize=4, capsize=3,
            label=f"layer {level + 1}: {count} above 0.01 (95 %: {low}–{high}); × {authors} as the authors count",
        )  # fmt: skip
        axes.plot(at, authors, "x", color=color)
    axes.axvline(at, color="#cc3311", linestyle="--", linewidth=1)
    axes.set_xlabel("log₁₀ threshold of the variance")
    axes.set_ylabel("units above it")
    axes.set_ylim(0, 1.3 * max(map(len, metrics[TEST_UNIT_VARIANCES])))  # with room for the legend
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.grid(alpha=0.3)
    return rendered(figure)
