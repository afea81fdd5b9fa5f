"""Checks before training that the parts of a model fit together. Torch only."""

from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import UserError
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli, Distribution, Gaussian, StandardNormal

__all__ = ["check_model"]


@torch.no_grad()
def check_model(model: LatentVariableModel, x: Tensor) -> None:
    """Raises `UserError` unless encoder, decoder and prior go together, at binary images x [batch, pixels]."""
    name = f"model={type(model).__name__}"
    for part in ("encoder", "decoder"):
        layers = getattr(model, part, None)
        if not isinstance(layers, nn.ModuleList):
            raise UserError(f"{name}: expected an nn.ModuleList as {part}, found {type(layers).__name__}")
    if not len(model.encoder) == len(model.decoder) > 0:
        lengths = f"{len(model.encoder)} and {len(model.decoder)}"
        raise UserError(f"{name}: expected encoder and decoder of as many layers, one or more, found {lengths}")
    for where, module in model.named_modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
            wanted = "log w to be a function of an image and its noise"
            raise UserError(f"{name}: expected {wanted}, found {type(module).__name__} at {where}")
    below: Tensor = x
    kind: type[Distribution] = Bernoulli  # of the distributions of `below`
    for level, (up, down) in enumerate(zip(model.encoder, model.decoder, strict=True)):
        q = _applied(f"{name}: encoder[{level}]", up, below.to(next(model.parameters()).dtype))
        _require(f"{name}: encoder[{level}]", q, (Gaussian, Bernoulli), (len(x), None))
        z = q.sample(q.noise(q[0].shape))
        p = _applied(f"{name}: decoder[{level}]", down, z)
        _require(f"{name}: decoder[{level}]", p, (kind,), tuple(below.shape))
        below, kind = z, Bernoulli if isinstance(q, Bernoulli) else Gaussian
    priors: tuple[type[Distribution], ...] = (Bernoulli,) if kind is Bernoulli else (Gaussian, StandardNormal)
    _require(f"{name}: prior()", model.prior(), priors, (below.shape[1],))
    _require_rows_apart(name, model, x.to(next(model.parameters()).dtype))


def _applied(what: str, layer: nn.Module, given: Tensor) -> Any:
    """What the layer makes of `given`. Raises `UserError` if it changes `given`."""
    before = given.clone()
    found = layer(given)
    if not torch.equal(given, before):
        raise UserError(f"{what}: expected it to leave its input as it is, found other values in it")
    return found


def _require_rows_apart(name: str, model: LatentVariableModel, x: Tensor) -> None:
    """Raises `UserError` unless log w of an image and its noise is the same where other images are missing."""
    whole = model.draw(x, 2)
    alone = model.log_weights(x[:1], 2, lambda q, level, shape: whole.noise[level][:, :1])
    if not torch.allclose(alone, whole.log_w[:, :1], rtol=1e-3, atol=1e-3, equal_nan=True):
        found = f"{whole.log_w[0, 0]:.6g} beside others and {alone[0, 0]:.6g} alone"
        raise UserError(f"{name}: expected log w to be a function of an image and its noise, found {found}")


def _require(what: str, found: Any, kinds: tuple[type[Distribution], ...], shape: tuple[int | None, ...]) -> None:
    """Raises `UserError` unless `found` is of these kinds, with parameters of this shape (None: any above 0)."""
    if not isinstance(found, kinds):
        names = " or ".join(f"a {kind.__name__}" for kind in kinds)
        raise UserError(
            f"{what}: expected {names}, as in iwae_lab.models.distributions, found a {type(found).__name__}"
        )
    units = found[0].shape[-1] if isinstance(found[0], Tensor) and found[0].dim() else 0
    wanted = [units if size is None else size for size in shape]
    for field, parameter in found._asdict().items():
        if not isinstance(parameter, Tensor) or list(parameter.shape) != wanted or 0 in wanted:
            shown = list(parameter.shape) if isinstance(parameter, Tensor) else type(parameter).__name__
            sizes = ", ".join(str(size or "units") for size in wanted)
            raise UserError(f"{what}: expected {field} of shape [{sizes}], found {shown}")
