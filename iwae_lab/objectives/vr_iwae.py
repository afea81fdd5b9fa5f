"""Doubly reparameterised gradient of the VR-IWAE bound."""

import torch
from torch import Tensor

from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective
from iwae_lab.objectives.renyi import renyi_bound

__all__ = ["VRIWAE"]


class VRIWAE(Objective):
    """φ: Σ_i (α w̄_i + (1−α) w̄_i²) D_i, with w̄ ∝ w^(1−α)   (Daudel, Benton, Shi & Doucet 2023, arXiv 2210.06226).

    D is the path derivative of log w; θ: Σ_i w̄_i ∇log w_i. Unbiased for the VR-IWAE bound
    L_α = 1/(1−α) · E log (1/k) Σ_i w_i^(1−α), whose plain gradient `renyi` follows. α = 0 is DReG, α = 1 is STL of
    the ELBO.
    """

    is_bound = True
    compilable = True

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        require("alpha", alpha, 0 <= alpha <= 1, "a number from 0 to 1")
        self.alpha = alpha

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        draw = model.draw(x, k, "path")
        weights = torch.softmax((1 - self.alpha) * draw.log_w.detach(), dim=0)
        draw.scale_inference_gradient(self.alpha + (1 - self.alpha) * weights)
        return Estimate(-(weights * draw.log_w).sum(0).mean(), draw.log_w)

    def target(self, log_w: Tensor) -> Tensor:
        return renyi_bound(log_w, self.alpha)
