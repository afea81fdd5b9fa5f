"""Reweighted wake-sleep."""

import torch
from torch import Tensor

from iwae_lab.bounds import normalized_weights
from iwae_lab.console.errors import require_one_of
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["RWS"]


class RWS(ImportanceWeighted):
    """Reweighted wake-sleep   (Bornschein & Bengio 2015, arXiv 1406.2751).

    wake-θ: Σ_i w̃_i ∇_θ log p(x, z_i), which is IWAE's. φ follows KL(p ‖ q), by inference="wake":
    Σ_i w̃_i ∇_φ log q(z_i | x), biased for finite k and zero in the mean for k = 1; "sleep": ∇_φ log q(z | x) at
    (x, z) ~ p, one for each datum of the batch; "both": their mean. Samples need no derivative, so latents may be
    discrete.
    """

    compilable = True
    couplable = True

    def __init__(self, inference: str = "wake") -> None:
        super().__init__()
        require_one_of("inference", inference, ("wake", "sleep", "both"))
        self.sleep_share = {"wake": 0.0, "both": 0.5, "sleep": 1.0}[inference]

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        draw = model.draw(x, k, "score", self.noise)
        weights = normalized_weights(draw.log_w)
        gain = (weights * (draw.log_p + (1 - self.sleep_share) * draw.log_q)).sum(0).mean()
        if self.sleep_share:
            with torch.no_grad():
                dreamt, z = model.sample_joint(len(x))
            gain = gain + self.sleep_share * model.log_posterior(dreamt, z).mean()
        return Estimate(-gain, draw.log_w)

    def inference_target(self, log_w: Tensor) -> None:
        return None
