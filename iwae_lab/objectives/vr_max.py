"""Variational Rényi bound in the limit α → −∞."""

from torch import Tensor

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["VRMax"]


class VRMax(Objective):
    """max_i log w_i   (Li & Turner 2016, arXiv 1602.02311). No lower bound of log p(x)."""

    couplable = True

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        log_w = model.log_weights(x, k, self.noise)
        return Estimate(-self.target(log_w).mean(), log_w)

    def target(self, log_w: Tensor) -> Tensor:
        return log_w.max(0).values
