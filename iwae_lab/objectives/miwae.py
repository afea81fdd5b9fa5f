"""Multiply importance weighted autoencoder."""

from torch import Tensor

from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["MIWAE"]


class MIWAE(ImportanceWeighted):
    """(1/m) Σ_j log (1/k) Σ_i w_ij, from m groups of k samples   (Rainforth et al. 2018, arXiv 1802.04537).

    The bound L_k, estimated with m·k samples in all.
    """

    compilable = True
    couplable = True

    def __init__(self, groups: int = 5) -> None:
        super().__init__()
        require("groups", groups, groups >= 1, "an integer of at least 1")
        self.groups = groups

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        log_w = model.log_weights(x, self.groups * k, self.noise).view(k, -1)  # each column a group of one datum
        return Estimate(-self.target(log_w).mean(), log_w)
