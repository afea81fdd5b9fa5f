"""Importance weighted autoencoder."""

from torch import Tensor

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["IWAE"]


class IWAE(ImportanceWeighted):
    """L_k = E[log (1/k) Σ_i w_i]   (Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519, eq. 8).

    Its gradient is Σ_i w̃_i ∇log w_i, with w̃ = softmax(log w) (eq. 14).
    """

    couplable = True

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        log_w = model.log_weights(x, k, self.noise)
        return Estimate(-self.target(log_w).mean(), log_w)
