"""Doubly reparameterised gradient with few of its k samples in the backward pass."""

from torch import Tensor

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted
from iwae_lab.objectives.iwae_resampled import Resampling

__all__ = ["DReGResampled"]


class DReGResampled(ImportanceWeighted):
    """θ: Σ_j v_j ∇log w_j; φ: Σ_j v_j w̃_j D_j, over m of the k samples, with E[Σ_j v_j f_j] = Σ_i w̃_i f_i.

    On average DReG's Σ_i w̃_i² D_i (Tucker et al. 2019, arXiv 1810.04152), so unbiased for IWAE. The k samples are
    weighed without a graph, as in `IWAEResampled`. With m ≥ k it is DReG.
    """

    compilable = True

    def __init__(self, kept: int = 8) -> None:
        super().__init__()
        self.choose = Resampling(kept)

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        chosen = self.choose(model, x, k, self.noise)
        draw = model.draw(x, len(chosen.weights), "path", chosen.noise)
        draw.scale_inference_gradient(chosen.normalized)
        return Estimate(-(chosen.weights * draw.log_w).sum(0).mean(), chosen.log_w)
