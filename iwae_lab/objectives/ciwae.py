"""Combination importance weighted autoencoder."""

import torch
from torch import Tensor, nn

from iwae_lab.bounds import elbo, iwae_bound
from iwae_lab.console.errors import require
from iwae_lab.objectives.base import Reparameterized

__all__ = ["CIWAE"]


class CIWAE(Reparameterized):
    """β·ELBO + (1−β)·L_k   (Rainforth et al. 2018, arXiv 1802.04537).

    With learned=true, β is learned, starting from the given value. Since L_k ≥ ELBO, it falls to 0:
    from a clear gradient in φ to a tight bound.
    """

    is_bound = True

    def __init__(self, beta: float = 0.5, learned: bool = False) -> None:
        super().__init__()
        require("beta", beta, 0 <= beta <= 1, "a number from 0 to 1")
        require("beta", beta, not learned or 0 < beta < 1, "a number between 0 and 1 to learn from")
        self.beta_logit = nn.Parameter(torch.logit(torch.tensor(beta))) if learned else None
        if not learned:
            self.beta = beta

    def target(self, log_w: Tensor) -> Tensor:
        beta = self.beta if self.beta_logit is None else torch.sigmoid(self.beta_logit)
        return beta * elbo(log_w) + (1 - beta) * iwae_bound(log_w)
