"""Importance weighted autoencoder with one backward pass for each datum."""

import torch
from torch import Tensor

from iwae_lab.bounds import iwae_bound, normalized_weights
from iwae_lab.layers import Distribution
from iwae_lab.model import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["IWAESingle"]


class IWAESingle(Objective):
    """∇log w_j with one j ~ Categorical(w̃)   (Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519).

    Unbiased for IWAE's Σ_i w̃_i ∇log w_i, at a higher variance. The k samples are weighed without a graph;
    the chosen one is then computed again from its noise.
    """

    is_bound = True

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        drawn = []

        def draw(q: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
            drawn.append(q.noise(shape))
            return drawn[level]

        with torch.no_grad():
            log_w = model.log_weights(x, k, draw)
            chosen = torch.multinomial(normalized_weights(log_w).T, 1).squeeze(1)  # [batch]
        data = torch.arange(len(x), device=x.device)

        def draw_again(q: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
            return drawn[level][chosen, data].unsqueeze(0)

        return Estimate(-model.log_weights(x, 1, draw_again).mean(), log_w)

    def target(self, log_w: Tensor) -> Tensor:
        return iwae_bound(log_w)
