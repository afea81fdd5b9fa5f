"""Score-function gradient of the importance weighted bound with the control variate of least variance."""

import math

import torch
from torch import Tensor

from iwae_lab.bounds import iwae_bound, log_sum_of_others, normalized_weights
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["OVIS"]


class OVIS(ImportanceWeighted):
    """φ: Σ_i (d_i − c_i) ∇log q(z_i | x), d_i = L̂_k − w̃_i   (Liévin, Dittadi, Christensen & Winther 2020,
    arXiv 2008.01998); θ as IWAE. Samples need no derivative, so latents may be discrete.

    auxiliary=0, the asymptotic form (eq. 17): c_i = log (1/(k−1)) Σ_{j≠i} w_j − γ w̃_i + (1−γ) log(1 − 1/k). γ = 0
    suits few effective samples and is unbiased for IWAE. γ > 0, up to 1 for many, adds γ times the wake update of
    reweighted wake-sleep, Σ_i w̃_i ∇log q(z_i | x), and so is biased for IWAE in φ. k ≥ 2.
    auxiliary=S > 0, the Monte Carlo form (eq. 12): c_i is the mean of d_i where each of S further samples, drawn
    without a graph, stands for z_i. Unbiased for IWAE; γ is unused.
    """

    compilable = True

    def __init__(self, gamma: float = 0.0, auxiliary: int = 0) -> None:
        super().__init__()
        require("gamma", gamma, 0 <= gamma <= 1, "a number from 0 to 1")
        require("auxiliary", auxiliary, auxiliary >= 0, "an integer of at least 0")
        unused = f"0 with auxiliary={auxiliary}, the Monte Carlo form"
        require("gamma", gamma, not (auxiliary and gamma), unused)
        self.gamma = gamma
        self.auxiliary = auxiliary

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        enough = k >= 2 or self.auxiliary > 0
        require("k", k, enough, "at least 2 for OVIS, unless auxiliary is above 0")
        draw = model.draw(x, k, "score")
        highest = draw.log_w.detach().max(0).values  # float32 would lose the signal in logs near log p(x)
        log_w = draw.log_w.detach() - highest
        weights, others, bound = normalized_weights(log_w), log_sum_of_others(log_w), iwae_bound(log_w)
        if self.auxiliary:
            with torch.no_grad():
                instead = (model.log_weights(x, self.auxiliary) - highest).unsqueeze(1)
            totals = torch.logaddexp(others, instead)  # [auxiliary, k, batch]
            control = (totals - math.log(k) - torch.exp(instead - totals)).mean(0)
        else:
            control = others - math.log(k - 1) - self.gamma * weights + (1 - self.gamma) * math.log(1 - 1 / k)
        signal = bound - weights - control
        return Estimate(-(signal * draw.log_q + weights * draw.log_p).sum(0).mean(), draw.log_w)

    def inference_target(self, log_w: Tensor) -> Tensor | None:
        return None if self.gamma else iwae_bound(log_w)
