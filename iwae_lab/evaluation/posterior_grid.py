"""The true posterior of models with two latent units in one layer, by quadrature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.images import require_images
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Gaussian

__all__ = ["PosteriorGrid", "posterior_grid"]


@dataclass(frozen=True)
class PosteriorGrid:
    """Densities at the middles of square cells, by rows from low to high z_2; float64."""

    axis: Tensor
    """values of z_1 and z_2 [size]"""
    log_p: Tensor
    """log p(x) [images], nats; exact but for cells and edges"""
    true: Tensor
    """p(z | x) [images, size, size]"""
    approximate: Tensor
    """q(z | x) [images, size, size]"""


@torch.no_grad()
def posterior_grid(
    model: LatentVariableModel, images: Tensor, *, extent: float = 5.0, size: int = 200
) -> PosteriorGrid:
    """Both posteriors of binary images [images, pixels] on the square from −extent to extent.

    Raises `UserError` for a model with another number of latent units or layers, or with discrete ones, and for images
    that are not binary.
    """
    require_images(model, images)
    parameter = next(model.parameters())
    x = images.to(parameter)
    q = model.encoder[0](x)
    units = [q[0].shape[-1], *("…" for _ in model.encoder[1:])]
    if units != [2] or not isinstance(q, Gaussian):
        raise UserError(f"latents={units}: expected [2], two continuous latent units, for a posterior on a grid")
    cell = 2 * extent / size
    axis = torch.arange(size, dtype=parameter.dtype, device=x.device) * cell + (cell / 2 - extent)
    grid = torch.cartesian_prod(axis, axis).flip(1)  # z_1 runs fastest
    given = model.decoder[0](grid)
    prior = model.prior().log_prob(grid).double()
    log_joint = torch.stack([prior + given.log_prob(image).double() for image in x])  # [images, size²]
    log_q = torch.stack([type(q)(*parameters).log_prob(grid).double() for parameters in zip(*q, strict=True)])
    log_p = torch.logsumexp(log_joint, dim=1) + 2 * math.log(cell)
    true = torch.exp(log_joint - log_p.unsqueeze(1))
    return PosteriorGrid(axis, log_p, true.view(-1, size, size), log_q.exp().view(-1, size, size))
