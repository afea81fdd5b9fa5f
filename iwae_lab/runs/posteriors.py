"""Draw true beside approximate posteriors: python -m iwae_lab.runs.posteriors RUN_DIR [RUN_DIR …] --to FILE.png

Runs need two latent units (model.latents=[2]), as sweeps/posteriors.yaml trains them; quadrature gives the true
posterior. The figure has a row per validation image, and for each run p(z | x) and q(z | x) on the same square
(Burda et al. 2016, appendix: "visualization of posterior distributions").
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from iwae_lab.console.errors import one_line_errors, require
from iwae_lab.console.images import rendered, write_png
from iwae_lab.evaluation.posterior_grid import PosteriorGrid, posterior_grid
from iwae_lab.runs.trained import TrainedRun

__all__ = ["posterior_figure"]

IMAGES = 6
VISIBLE = 1e-3  # of the highest density


def posterior_figure(images: Tensor, shape: tuple[int, int], grids: dict[str, PosteriorGrid]) -> Image.Image:
    """Draw images [images, pixels] of this height and width beside their posteriors. grids: one per run, by name."""
    columns = 1 + 2 * len(grids)
    figure = Figure(figsize=(1.3 * columns, 1.3 * len(images) + 0.5), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, image in zip(axes, images, strict=True):
        row[0].imshow(image.view(shape).cpu(), cmap="gray_r", interpolation="nearest")
    for run, (name, grid) in enumerate(grids.items()):
        axis = grid.axis.cpu()
        half = float(axis[1] - axis[0]) / 2
        edges = float(axis[0]) - half, float(axis[-1]) + half
        for row, true, approximate in zip(axes, grid.true.cpu(), grid.approximate.cpu(), strict=True):
            (left, right), (bottom, top) = _frame(axis, true, approximate)
            for column, density, symbol in ((1 + 2 * run, true, "p"), (2 + 2 * run, approximate, "q")):
                row[column].imshow(density, cmap="viridis", origin="lower", extent=(*edges, *edges))
                row[column].set(xlim=(left, right), ylim=(bottom, top))
                if row is axes[0]:
                    row[column].set_title(f"{name}\n${symbol}(z|x)$", fontsize=7)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    return rendered(figure)


def _frame(axis: Tensor, *densities: Tensor) -> list[tuple[float, float]]:
    """A square around the visible parts of the densities [size, size]: its ends along z_1 and z_2."""
    seen = torch.stack([density > VISIBLE * density.max() for density in densities]).any(0)
    ends = [(float(axis[line].min()), float(axis[line].max())) for line in (seen.any(0), seen.any(1))]
    side = 1.2 * max(high - low for low, high in ends) + float(axis[1] - axis[0])
    return [((low + high - side) / 2, (low + high + side) / 2) for low, high in ends]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"how many images ({IMAGES})")
    arguments = parser.parse_args()
    require("--to", arguments.to, arguments.to.suffix == ".png", "a file that ends in .png")
    require("--images", arguments.images, arguments.images >= 1, "a number of at least 1")
    grids = {}
    for folder in arguments.runs:
        run = TrainedRun.read(folder)
        images = run.data.val[: arguments.images]
        grid = posterior_grid(run.model, images.to(run.experiment.device))
        grids[f"{run.record.objective} k={run.record.k}, seed {run.record.seed}"] = grid
    write_png(arguments.to, posterior_figure(images, run.data.shape, grids))
    print(arguments.to)


if __name__ == "__main__":
    with one_line_errors():
        main()
