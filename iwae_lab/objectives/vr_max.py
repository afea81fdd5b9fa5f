"""Variational Rényi bound in the limit α → −∞."""

from torch import Tensor

from iwae_lab.objectives.base import Reparameterized

__all__ = ["VRMax"]


class VRMax(Reparameterized):
    """max_i log w_i   (Li & Turner 2016, arXiv 1602.02311). No lower bound of log p(x)."""

    def target(self, log_w: Tensor) -> Tensor:
        return log_w.max(0).values
