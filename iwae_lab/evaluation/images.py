"""Checks the images given to an evaluation."""

from torch import Tensor

from iwae_lab.console.errors import UserError
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli

__all__ = ["require_images"]


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
