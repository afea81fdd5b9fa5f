"""Doubly reparameterised gradient of the importance weighted bound."""

from torch import Tensor

from iwae_lab.bounds import normalized_weights
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["DReG"]


class DReG(ImportanceWeighted):
    """φ: Σ_i w̃_i² D_i, with D the path derivative of log w   (Tucker et al. 2019, arXiv 1810.04152).

    θ: Σ_i w̃_i ∇log w_i, as IWAE. Unbiased for IWAE with any number of stochastic layers, since z_1 stays
    live inside q(z_2 | z_1); its signal-to-noise ratio in φ grows with k.
    """

    compilable = True

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        draw = model.draw(x, k, "path")
        weights = normalized_weights(draw.log_w)
        draw.scale_inference_gradient(weights)
        return Estimate(-(weights * draw.log_w).sum(0).mean(), draw.log_w)
