"""The paper's models: stochastic layers of Gaussian latents. Torch only."""

import torch
from torch import Tensor

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Gaussian, StandardNormal
from iwae_lab.models.networks import networks

__all__ = ["HierarchicalModel"]


class HierarchicalModel(LatentVariableModel):
    """The paper's architectures: Gaussian latents, tanh networks, Bernoulli pixels (section 5).

    latents: units of each stochastic layer, from the image upwards.
    hidden: widths of the tanh networks between a layer and the one above, the same in both directions.
    mean_image: mean training pixels in [0, 1], [height, width] or [pixels]; the output bias starts at their logits.
    """

    zeros: Tensor

    def __init__(self, latents: list[int], hidden: list[list[int]], *, mean_image: Tensor) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(Gaussian, latents, hidden, mean_image)
        self.register_buffer("zeros", torch.zeros(latents[-1]))

    def prior(self) -> StandardNormal:
        return StandardNormal(self.zeros)
