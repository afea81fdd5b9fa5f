"""Pictures of what Gaussian latents mean: interpolations between images, and traversals of the most active units."""

import torch
from PIL import Image
from torch import Tensor

from iwae_lab.evaluation.active_units import ActiveUnits
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Gaussian
from iwae_lab.training.figures.samples import COLUMNS, image_grid

__all__ = ["interpolations", "latent_figures", "traversals"]

ROWS = 10
RANGE = 3.0  # standard deviations of the prior, to either side


@torch.no_grad()
def latent_figures(
    model: LatentVariableModel, images: Tensor, shape: tuple[int, int], units: ActiveUnits
) -> dict[str, Image.Image]:
    """Interpolations and traversals of a model; nothing if its latents are discrete.

    images: binary [images, pixels]. Interpolates between the first 20, in pairs, and varies the first one. shape: their
    height and width.
    """
    x = images[: 2 * ROWS].to(next(model.parameters()))
    posteriors = [model.encoder[0](x)]
    for layer in model.encoder[1:]:
        posteriors.append(layer(posteriors[-1].mean))
    if not all(isinstance(q, Gaussian) for q in posteriors):
        return {}
    return {
        "interpolations": image_grid(interpolations(model, x, posteriors[0].mean), shape),
        "traversals": image_grid(traversals(model, posteriors[-1].mean[0], units.variances[-1]), shape),
    }


def interpolations(model: LatentVariableModel, x: Tensor, means: Tensor) -> Tensor:
    """One row per pair of images in x [images, pixels]: the first, E[x | z_1] along the line between the `means` of
    their q(z_1 | x) [images, units], the second. [rows · COLUMNS, pixels]."""
    rows = []
    for (left, right), (start, end) in zip(_pairs(x), _pairs(means), strict=True):
        share = torch.linspace(0, 1, COLUMNS - 2).to(x).unsqueeze(-1)
        rows += [left.unsqueeze(0), model.decoder[0](torch.lerp(start, end, share)).mean, right.unsqueeze(0)]
    return torch.cat(rows)


def _pairs(values: Tensor) -> Tensor:
    return values[: len(values) // 2 * 2].unflatten(0, (-1, 2))


def traversals(model: LatentVariableModel, top: Tensor, variances: Tensor) -> Tensor:
    """E[x | z] while a unit of the top layer moves from −3 to 3 prior standard deviations, [rows · COLUMNS, pixels].

    One row for each of the `ROWS` units with the largest `variances` A_u [units]. Other units stay at `top` [units];
    each lower layer is at its mean given the one above.
    """
    noise = torch.linspace(-RANGE, RANGE, COLUMNS).to(top).unsqueeze(-1)
    within_prior = model.prior().sample(noise.expand(-1, len(top)))
    rows = []
    for unit in variances.argsort(descending=True)[:ROWS]:
        z = top.repeat(COLUMNS, 1)
        z[:, unit] = within_prior[:, unit]
        for layer in reversed(model.decoder):
            z = layer(z).mean
        rows.append(z)
    return torch.cat(rows)
