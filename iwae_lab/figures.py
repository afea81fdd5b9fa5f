"""The pictures of a run folder."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from iwae_lab.evaluation.active_units import THRESHOLD, ActiveUnits
from iwae_lab.model import LatentVariableModel
from iwae_lab.record import read_metrics

__all__ = ["draw_figures", "image_grid"]

SEED = 7


@torch.no_grad()
def draw_figures(
    folder: Path, model: LatentVariableModel, test: Tensor, shape: tuple[int, int], units: ActiveUnits
) -> None:
    """Write samples, reconstructions, log-variances and the training curve as PNG files into `folder`.

    test: binary images [images, pixels]; shape: their height and width.
    """
    folder.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        samples = model.sample(100)
        x = test[:50].to(samples)
        pairs = torch.stack([x, model.reconstruct(x)], dim=1).flatten(0, 1)
    image_grid(samples, shape, 10).savefig(folder / "samples.png", dpi=150)
    image_grid(pairs, shape, 10).savefig(folder / "reconstructions.png", dpi=150)
    log_variances(units).savefig(folder / "log_variances.png", dpi=150)
    if rows := read_metrics(folder.parent):
        training_curve(rows).savefig(folder / "training_curve.png", dpi=150)


def image_grid(images: Tensor, shape: tuple[int, int], columns: int) -> Figure:
    """Images [n, pixels] in [0, 1], row by row, dark on light."""
    height, width = shape
    rows = -(-len(images) // columns)
    canvas = torch.zeros(rows * columns, height + 2, width + 2)
    canvas[: len(images), 1:-1, 1:-1] = images.detach().float().cpu().view(-1, height, width)
    grid = canvas.view(rows, columns, height + 2, width + 2).transpose(1, 2).reshape(rows * (height + 2), -1)
    figure = Figure(figsize=(columns * 0.5, rows * 0.5 * (height + 2) / (width + 2)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(grid.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.axis("off")
    return figure


def log_variances(units: ActiveUnits) -> Figure:
    """A histogram of log A_u for each stochastic layer, with the threshold (Burda et al. 2016, figure 4)."""
    layers = len(units.variances)
    figure = Figure(figsize=(4.5 * layers, 3), layout="constrained")
    for level, (variances, active) in enumerate(zip(units.variances, units.active, strict=True)):
        axes = figure.add_subplot(1, layers, level + 1)
        logs = variances.clamp(min=1e-6).log10().cpu().numpy()
        axes.hist(logs, bins=30, range=(-6, 2), color="#4477aa")
        axes.axvline(float(torch.tensor(THRESHOLD).log10()), color="#cc3311", linestyle="--", label="0.01")
        axes.set_title(f"layer {level + 1}: {int(active.sum())} of {len(active)} units active", fontsize=10)
        axes.set_xlabel("log₁₀ variance of the posterior mean")
        axes.set_ylabel("units")
        axes.legend(frameon=False)
    return figure


def training_curve(rows: list[dict[str, float]]) -> Figure:
    """Training and validation bounds against passes, from the rows of metrics.csv."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for key, label, style in (("train/bound", "training", "-"), ("val/bound", "validation", "o-")):
        points = [(row["pass"], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), style, markersize=3, label=label)
    if len(rows) > 50:
        axes.set_xscale("log")
    axes.set_xlabel("passes over the training data")
    axes.set_ylabel("bound L̂ₖ (nats)")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure
