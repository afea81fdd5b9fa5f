"""Variational Rényi bound."""

import torch
from torch import Tensor

from iwae_lab.bounds import elbo, iwae_bound
from iwae_lab.console.errors import require
from iwae_lab.objectives.base import Reparameterized

__all__ = ["Renyi", "renyi_bound"]


class Renyi(Reparameterized):
    """L_α = 1/(1−α) · log (1/k) Σ_i w_i^(1−α)   (Li & Turner 2016, arXiv 1602.02311).

    α = 1 is the ELBO, α = 0 is IWAE, α → −∞ is `vr_max`. For 0 ≤ α < 1 it is the VR-IWAE bound, a lower bound of
    log p(x), by its plain gradient (Daudel et al. 2023, arXiv 2210.06226; `vr_iwae` has the doubly reparameterised
    one). For α < 0 it is not a bound.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        require("alpha", alpha, abs(alpha) <= 1e9, "a number from -1e9 to 1e9; vr_max is the limit α → −∞")
        self.alpha = alpha

    @property
    def is_bound(self) -> bool:  # type: ignore[override]
        return bool(self.alpha >= 0)

    def target(self, log_w: Tensor) -> Tensor:
        return renyi_bound(log_w, self.alpha)


def renyi_bound(log_w: Tensor, alpha: float | Tensor) -> Tensor:
    """1/(1−α) · log (1/k) Σ_i w_i^(1−α) per datum, the ELBO at α = 1. [k, batch] -> [batch], nats."""
    order = 1 - alpha
    if isinstance(order, Tensor):
        order = torch.where(order.abs() < 1e-6, 1e-6, order)  # where it differs from the ELBO by 1e-6 · Var(log w) / 2
    elif abs(order) < 1e-6:
        return elbo(log_w)
    scaled = order * log_w.double()  # near α = 1 the bound of these is small
    return (iwae_bound(scaled) / order).to(log_w)
