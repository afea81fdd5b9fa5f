"""Partially importance weighted autoencoder."""

from torch import Tensor

from iwae_lab.bounds import iwae_bound
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["PIWAE"]


class PIWAE(Objective):
    """θ: L_{m·k}; φ: (1/m) Σ_j log (1/k) Σ_i w_ij   (Rainforth et al. 2018, arXiv 1802.04537).

    From one set of m groups of k samples: θ has the tighter bound, φ the one with the better gradient.
    """

    is_bound = True
    compilable = True
    couplable = True

    def __init__(self, groups: int = 5) -> None:
        super().__init__()
        require("groups", groups, groups >= 1, "an integer of at least 1")
        self.groups = groups

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        log_w = model.log_weights(x, self.groups * k, self.noise).view(k, -1)  # each column a group of one datum
        return Estimate(-self.target(log_w).mean(), log_w, -self.inference_target(log_w).mean())

    def target(self, log_w: Tensor) -> Tensor:
        return iwae_bound(log_w.view(len(log_w) * self.groups, -1))

    def inference_target(self, log_w: Tensor) -> Tensor:
        return iwae_bound(log_w)
