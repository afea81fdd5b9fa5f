"""Samples and reconstructions of a model; also given to trackers during training."""

import torch
from PIL import Image
from torch import Tensor

from iwae_lab.evaluation.active_units import ActiveUnits
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.training.figures.plots import log_variances

__all__ = ["COLUMNS", "image_grid", "model_figures"]

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
