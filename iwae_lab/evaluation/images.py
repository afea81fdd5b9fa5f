"""Checks the images given to an evaluation, and picks some of them."""

import torch
from torch import Tensor

from iwae_lab.console.errors import UserError
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli

__all__ = ["pick", "require_images"]


def pick(n: int, images: int) -> Tensor:
    """Positions of n of so many images, or of all if there are fewer, int64 [n]: the first n of one random order.

    Not the first n images, which may be easier than the rest: the first 300 test images of MNIST are, by 2.5 nats.
    """
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))[:n]


def require_images(model: LatentVariableModel, images: Tensor) -> None:
    """Raises `UserError` unless the model takes these images [images, pixels]: 0 and 1 where p(x | z) is Bernoulli."""
    if not isinstance(model, LatentVariableModel):
        raise UserError(f"model of type {type(model).__name__}: expected a LatentVariableModel")
    if not isinstance(images, Tensor):
        raise UserError(f"images of type {type(images).__name__}: expected a torch tensor [images, pixels]")
    if images.dim() != 2 or not len(images):
        raise UserError(f"images of shape {list(images.shape)}: expected [images, pixels] and at least one image")
    try:
        q = model.encoder[0](images[:1].to(next(model.parameters()).dtype))
    except RuntimeError as error:
        raise UserError(f"images of shape {list(images.shape)}: the model can't take them ({error})") from None
    if ((images == 0) | (images == 1)).all():
        return
    if isinstance(model.decoder[0](q.mean), Bernoulli):
        raise UserError(
            f"images with values up to {images.max().item():g}: expected 0 and 1 alone; grey.bernoulli() draws them "
            "from grey levels between 0 and 1, run.data.train_draw() from a run's"
        )
