"""Between the doubly reparameterised gradients of IWAE and of reweighted wake-sleep."""

from torch import Tensor

from iwae_lab.bounds import iwae_bound, normalized_weights
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["DReGAlpha"]


class DReGAlpha(ImportanceWeighted):
    """φ: (1−α) Σ_i w̃_i² D_i + α Σ_i (w̃_i − w̃_i²) D_i   (Tucker et al. 2019, arXiv 1810.04152).

    D is the path derivative of log w; θ as IWAE. α = 0 is DReG; α = 1 is unbiased for the wake update of
    reweighted wake-sleep with the same k, and zero for k = 1; α = ½ is half of STL. For α > 0 biased for IWAE in φ.
    """

    compilable = True

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        require("alpha", alpha, 0 <= alpha <= 1, "a number from 0 to 1")
        self.alpha = alpha

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        draw = model.draw(x, k, "path")
        weights = normalized_weights(draw.log_w)
        draw.scale_inference_gradient((1 - self.alpha) * weights + self.alpha * (1 - weights))
        return Estimate(-(weights * draw.log_w).sum(0).mean(), draw.log_w)

    def inference_target(self, log_w: Tensor) -> Tensor | None:
        return iwae_bound(log_w) if self.alpha == 0 else None
