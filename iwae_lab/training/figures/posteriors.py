"""True beside approximate posteriors of models with two latent units (Burda et al. 2016, appendix)."""

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from iwae_lab.console.images import rendered
from iwae_lab.evaluation.posterior_grid import PosteriorGrid

__all__ = ["IMAGES", "posterior_figure"]

IMAGES = 6
VISIBLE = 1e-3  # of the highest density


def posterior_figure(images: Tensor, shape: tuple[int, int], grids: dict[str, PosteriorGrid]) -> Image.Image:
    """Draw images [images, pixels] of this height and width beside their posteriors. grids: by the name of the run."""
    columns = 1 + 2 * len(grids)
    figure = Figure(figsize=(1.3 * columns, 1.3 * len(images) + 0.5), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, image in zip(axes, images, strict=True):
        row[0].imshow(image.view(shape).cpu().numpy(), cmap="gray_r", interpolation="nearest")
    for run, (name, grid) in enumerate(grids.items()):
        axis = grid.axis.cpu()
        half = float(axis[1] - axis[0]) / 2
        edges = float(axis[0]) - half, float(axis[-1]) + half
        for column, symbol in ((1 + 2 * run, "p"), (2 + 2 * run, "q")):
            axes[0, column].set_title(f"{name}\n${symbol}(z|x)$".strip(), fontsize=7)
        for row, true, approximate in zip(axes, grid.true.cpu(), grid.approximate.cpu(), strict=True):
            (left, right), (bottom, top) = _frame(axis, true, approximate)
            for column, density in ((1 + 2 * run, true), (2 + 2 * run, approximate)):
                row[column].imshow(density.numpy(), cmap="viridis", origin="lower", extent=(*edges, *edges))
                row[column].set(xlim=(left, right), ylim=(bottom, top))
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    return rendered(figure)


def _frame(axis: Tensor, *densities: Tensor) -> list[tuple[float, float]]:
    """A square within the grid around the visible parts of the densities [size, size]: its ends along z_1 and z_2."""
    seen = torch.stack([density > VISIBLE * density.max() for density in densities]).any(0)
    ends = [(float(axis[line].min()), float(axis[line].max())) for line in (seen.any(0), seen.any(1))]
    lowest, highest = float(axis[0]), float(axis[-1])
    side = min(1.2 * max(high - low for low, high in ends) + float(axis[1] - axis[0]), highest - lowest)
    starts = [min(max((low + high - side) / 2, lowest), highest - side) for low, high in ends]
    return [(start, start + side) for start in starts]
