"""Sigmoid belief networks: stochastic layers of Bernoulli latents. Torch only."""

import torch
from torch import Tensor, nn

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli
from iwae_lab.models.networks import networks

__all__ = ["SigmoidBeliefNetwork"]


class SigmoidBeliefNetwork(LatentVariableModel):
    """Bernoulli latents and pixels, as in Bornschein & Bengio 2015 and Mnih & Rezende 2016.

    latents, hidden, mean_image: as for `HierarchicalModel`; hidden widths [] make a conditional linear in its
    logits. The prior's logits are learned.
    """

    def __init__(self, latents: list[int], hidden: list[list[int]], *, mean_image: Tensor) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(Bernoulli, latents, hidden, mean_image)
        self.prior_logits = nn.Parameter(torch.zeros(latents[-1]))

    def prior(self) -> Bernoulli:
        return Bernoulli(self.prior_logits)
