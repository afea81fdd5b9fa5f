"""Jackknife variational inference with doubly reparameterised gradients."""

import torch
from torch import Tensor

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate
from iwae_lab.objectives.jvi import JVI, leave_out

__all__ = ["JVIDReG"]


class JVIDReG(JVI):
    """φ: Σ_j c_j mean_A Σ_{i∈A} w̃_{A,i}² D_i, over the sets A of k − j samples   (Tucker et al. 2019, section 6).

    DReG (arXiv 1810.04152) in each term of `jvi`: w̃_{A,i} = w_i / Σ_{l∈A} w_l, D the path derivative of log w. θ as
    `jvi`. Unbiased for the mean of the jackknife, and like `jvi` without an upper limit. k as there.
    """

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.require_countable(k)
        log_w = model.draw(x, k, "path").log_w
        double = log_w.detach().double()  # coefficients of up to k² cancel
        first, second = torch.zeros_like(double), torch.zeros_like(double)
        for j, c in enumerate(self.coefficients(k)):
            weights = torch.softmax(leave_out(k, j, double).log().unsqueeze(-1) + double, dim=1)  # [sets, k, batch]
            first += c * weights.mean(0)
            second += c * weights.square().mean(0)
        losses = [-(weights.to(log_w) * log_w).sum(0).mean() for weights in (first, second)]
        return Estimate(losses[0], log_w, losses[1])
