"""The tanh networks that give distributions their parameters (Burda et al. 2016, section 5). Torch only."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import require
from iwae_lab.models.distributions import Bernoulli, Gaussian

__all__ = ["Conditional", "networks", "pixel_logits"]


def networks(
    family: type[Gaussian] | type[Bernoulli], latents: list[int], hidden: list[list[int]], mean_image: Tensor
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Encoder and decoder between the pixels and latents of `family`, from the image upwards."""
    _check_widths(latents, hidden)
    below = [mean_image.numel(), *latents]
    encoder = [Conditional(family, n, widths, above) for n, widths, above in zip(below, hidden, latents, strict=False)]
    decoder = [
        Conditional(family if level else Bernoulli, above, widths[::-1], n)
        for level, (n, widths, above) in enumerate(zip(below, hidden, latents, strict=False))
    ]
    (pixels,) = _linears(decoder[0].heads)
    pixels.bias.data.copy_(pixel_logits(mean_image))
    return nn.ModuleList(encoder), nn.ModuleList(decoder)


def pixel_logits(mean_image: Tensor) -> Tensor:
    """Logits [pixels] of a mean image [height, width], within ±6.9. Raises `UserError` unless it is in [0, 1]."""
    lowest, highest = (pixel.item() for pixel in mean_image.aminmax())
    require("mean_image", f"{lowest:g} to {highest:g}", 0 <= lowest <= highest <= 1, "pixels between 0 and 1")
    return torch.logit(mean_image.flatten().clamp(0.001, 0.999))


def _check_widths(latents: list[int], hidden: list[list[int]]) -> None:
    valid = isinstance(latents, Sequence) and len(latents) > 0 and min(latents) >= 1
    require("latents", latents, valid, "the units of one or more layers, each at least 1")
    lists = isinstance(hidden, Sequence) and all(isinstance(widths, Sequence) for widths in hidden)
    valid = lists and len(hidden) == len(latents) and all(width >= 1 for widths in hidden for width in widths)
    require("hidden", hidden, valid, f"a list of widths of at least 1 for each of latents={latents}")


class Conditional(nn.Module):
    """h [rows, n_in] -> a distribution over n_out units: a tanh body, then one linear head per parameter.

    Weights are Glorot-uniform, biases zero (Burda et al. 2016, section 5).
    """

    def __init__(self, family: type[Gaussian] | type[Bernoulli], n_in: int, hidden: list[int], n_out: int) -> None:
        super().__init__()
        self.family = family
        widths = [n_in, *hidden]
        self.body = nn.ModuleList(_glorot(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.heads = nn.ModuleList(_glorot(widths[-1], n_out) for _ in family._fields)

    def forward(self, h: Tensor) -> Gaussian | Bernoulli:
        for linear in self.body:
            h = torch.tanh(linear(h))
        return self.family(*(head(h) for head in _linears(self.heads)))


def _linears(layers: nn.ModuleList) -> list[nn.Linear]:
    return cast("list[nn.Linear]", list(layers))  # a string, as torch 2.6 compiles no generic alias


def _glorot(n_in: int, n_out: int) -> nn.Linear:
    linear = nn.Linear(n_in, n_out)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
