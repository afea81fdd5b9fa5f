"""Figures of a model: written to its run's folder at the end, and given to trackers during training."""

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from iwae_lab.console.images import rendered
from iwae_lab.evaluation.active_units import THRESHOLD, ActiveUnits
from iwae_lab.evaluation.keys import EPOCH, TRAIN_BOUND, VAL_BOUND
from iwae_lab.models.base import LatentVariableModel

__all__ = ["COLUMNS", "image_grid", "model_figures", "training_curve"]

SEED = 7
COLUMNS = 10
ZOOM = 2


@torch.no_grad()
def model_figures(
    model: LatentVariableModel, images: Tensor, shape: tuple[int, int], units: ActiveUnits
) -> dict[str, Image.Image]:
    """Figures of samples, reconstructions (each beside its image) and log-variances of a model, by name.

    images: binary [images, pixels], of which the first 50 are reconstructed; shape: their height and width. Leaves the
    global random generator as it was.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        samples = model.sample_means(100)
        x = images[:50].to(samples)
        pairs = torch.stack([x, model.reconstruct(x)], dim=1).flatten(0, 1)
    return {
        "samples": image_grid(samples, shape),
        "reconstructions": image_grid(pairs, shape),
        "log_variances": log_variances(units),
    }


def image_grid(images: Tensor, shape: tuple[int, int]) -> Image.Image:
    """A grid of images [n, pixels] in [0, 1], filled row by row; 1 is black."""
    height, width = (side + 2 for side in shape)
    rows = -(-len(images) // COLUMNS)
    canvas = torch.zeros(rows * COLUMNS, height, width)
    canvas[: len(images), 1:-1, 1:-1] = images.detach().float().cpu().unflatten(1, shape)
    grid = canvas.view(rows, COLUMNS, height, width).transpose(1, 2).reshape(rows * height, COLUMNS * width)
    return Image.fromarray((255 * (1 - grid)).round().byte().numpy()).resize(
        (ZOOM * grid.shape[1], ZOOM * grid.shape[0]), Image.Resampling.NEAREST
    )


def log_variances(units: ActiveUnits) -> Image.Image:
    """A histogram of log A_u for each stochastic layer, with the threshold (Burda et al. 2016, figure 4)."""
    layers = len(units.variances)
    figure = Figure(figsize=(4.5 * layers, 3))
    figure.subplots_adjust(0.12 / layers, 0.17, 1 - 0.03 / layers, 0.9)  # half the time of a constrained layout
    for level, (variances, active) in enumerate(zip(units.variances, units.active, strict=True)):
        axes = figure.add_subplot(1, layers, level + 1)
        logs = variances.clamp(min=1e-6).log10().cpu().numpy()
        axes.hist(logs, bins=30, range=(-6, 2), color="#4477aa")
        axes.axvline(float(torch.tensor(THRESHOLD).log10()), color="#cc3311", linestyle="--", label="0.01")
        axes.set_title(f"layer {level + 1}: {int(active.sum())} of {len(active)} units active", fontsize=10)
        axes.set_xlabel("log₁₀ variance of the posterior mean")
        axes.set_ylabel("units")
        axes.legend(frameon=False)
    return rendered(figure)


def training_curve(rows: list[dict[str, float]]) -> Image.Image:
    """Training and validation bounds against epochs, from the metrics of each epoch."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for key, label, style in ((TRAIN_BOUND, "training", "-"), (VAL_BOUND, "validation", "o-")):
        points = [(row[EPOCH], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), style, markersize=3, label=label)
    if len(rows) > 50:
        axes.set_xscale("log")
    axes.set_xlabel("epochs")
    axes.set_ylabel("bound L̂ₖ (nats)")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return rendered(figure)
