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
    `jvi`. Unbiased for the mean of the jackknife, and like `jvi` without an upper limit. k > order.
    """

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.check(k)
        log_w = model.draw(x, k, "path").log_w
        first, second = torch.zeros_like(log_w), torch.zeros_like(log_w)
        for j, c in enumerate(self.coefficients(k)):
            sets = leave_out(k, j, log_w.detach().double()).log()
            weights = torch.softmax(sets.unsqueeze(-1) + log_w.detach(), dim=1)  # [sets, k, batch]
            first += c * weights.mean(0).to(log_w)
            second += c * weights.square().mean(0).to(log_w)
        return Estimate(-(first * log_w).sum(0).mean(), log_w, -(second * log_w).sum(0).mean())
