"""A convolutional model with one layer of Gaussian latents."""

import itertools
import math

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli, Gaussian, StandardNormal
from iwae_lab.models.networks import pixel_logits

__all__ = ["ConvModel"]


class ConvModel(LatentVariableModel):
    """Convolutions of stride 2 down to a vector of Gaussian latents, and transposed ones back up to Bernoulli pixels.

    latents: Gaussian units.
    channels: of each convolution's output, from the image upwards; each halves height and width, rounding up.
    mean_image: mean training pixels in [0, 1], [height, width]; the output bias starts at their logits.
    """

    zeros: Tensor

    def __init__(self, latents: int, channels: list[int], *, mean_image: Tensor) -> None:
        super().__init__()
        require("latents", latents, latents >= 1, "an integer of at least 1")
        valid = len(channels) > 0 and min(channels) >= 1
        require("channels", channels, valid, "the channels of one or more convolutions, each at least 1")
        require("mean_image", list(mean_image.shape), mean_image.dim() == 2, "[height, width]")
        sizes = [tuple(mean_image.shape)]
        for _ in channels:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        self.encoder = nn.ModuleList([_Encoder(sizes, channels, latents)])
        self.decoder = nn.ModuleList([_Decoder(sizes, channels, latents, mean_image)])
        self.register_buffer("zeros", torch.zeros(latents))

    def prior(self) -> StandardNormal:
        return StandardNormal(self.zeros)


class _Encoder(nn.Module):
    """x [rows, pixels] -> q(z | x), [rows, latents]."""

    def __init__(self, sizes: list[tuple[int, ...]], channels: list[int], latents: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Unflatten(1, (1, *sizes[0]))]
        for below, above in itertools.pairwise([1, *channels]):
            layers += [nn.Conv2d(below, above, 3, stride=2, padding=1), nn.ELU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(channels[-1] * math.prod(sizes[-1]), 2 * latents)

    def forward(self, x: Tensor) -> Gaussian:
        mean, log_std = self.head(self.body(x)).chunk(2, dim=1)
        return Gaussian(mean, log_std)


class _Decoder(nn.Module):
    """z [rows, latents] -> p(x | z), [rows, pixels]."""

    def __init__(self, sizes: list[tuple[int, ...]], channels: list[int], latents: int, mean_image: Tensor) -> None:
        super().__init__()
        top = (channels[-1], *sizes[-1])
        layers: list[nn.Module] = [nn.Linear(latents, math.prod(top)), nn.Unflatten(1, top)]
        steps = list(zip(itertools.pairwise([1, *channels]), sizes[:-1], strict=True))
        for (below, above), size in reversed(steps):
            even = (1 - size[0] % 2, 1 - size[1] % 2)  # which of the two sizes that halve to the same
            layers += [nn.ELU(), nn.ConvTranspose2d(above, below, 3, stride=2, padding=1, output_padding=even)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.bias = nn.Parameter(pixel_logits(mean_image))

    def forward(self, z: Tensor) -> Bernoulli:
        return Bernoulli(self.body(z) + self.bias)
