"""Jackknife variational inference."""

import math

import torch
from torch import Tensor

from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["JVI", "leave_out"]


class JVI(Objective):
    """Σ_{j=0}^{order} c_j L̄_{k−j}, c_j = (−1)^j (k−j)^order / (j! (order−j)!)   (Nowozin, ICLR 2018).

    L̄_{k−j} averages L̂_{k−j} over all ways of leaving out j of the k samples; order 1 is
    k·L̂_k − (k−1)·L̄_{k−1}. Its bias as an estimate of log p(x) is O(k^−(order+1)), where IWAE's is O(1/k).
    No lower bound, and not bounded above either: it rises with the gap between the largest and the second largest
    weight, so it grows as one unit of q widens, and training may diverge at high learning rates. (Weights more than 708
    nats below the largest count as that.) Order 2 leaves out each of k(k−1)/2 pairs. k > order; with order 2, k ≤ 200.
    """

    compilable = True
    MOST_K = 200

    def __init__(self, order: int = 1) -> None:
        super().__init__()
        require("order", order, order in (1, 2), "1 or 2")
        self.order = order

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.require_countable(k)
        log_w = model.log_weights(x, k)
        return Estimate(-self.target(log_w).mean(), log_w)

    def require_countable(self, k: int) -> None:
        """Raises `UserError` for a k that leaves no sample, or too many sets of samples."""
        self.require_samples(k, self.order + 1)
        require("k", k, self.order == 1 or k <= self.MOST_K, f"at most {self.MOST_K} with order=2, for k(k−1)/2 sets")

    def coefficients(self, k: int) -> list[float]:
        """c_0, …, c_order."""
        n = self.order
        return [(-1) ** j * (k - j) ** n / (math.factorial(j) * math.factorial(n - j)) for j in range(n + 1)]

    def target(self, log_w: Tensor) -> Tensor:
        k = len(log_w)
        highest = log_w.detach().max(0).values
        w = (log_w - highest).double().exp()  # double: without the highest weight, little may be left
        jackknife = torch.zeros_like(w[0])
        for j, c in enumerate(self.coefficients(k)):
            sums = (leave_out(k, j, w) @ w).clamp(min=torch.finfo(w.dtype).tiny)  # 708 nats below the highest
            jackknife = jackknife + c * (sums.log().mean(0) - math.log(k - j))
        return highest + jackknife.to(log_w)  # the coefficients sum to one


def leave_out(k: int, j: int, like: Tensor) -> Tensor:
    """Masks [ways to choose, k], 0 at the j samples left out and 1 elsewhere; device and type as `like`."""
    if j == 0:
        return like.new_ones(1, k)
    if j == 1:
        return 1 - torch.eye(k, dtype=like.dtype, device=like.device)
    pairs = torch.triu_indices(k, k, 1, device=like.device).T
    return torch.ones(len(pairs), k, dtype=like.dtype, device=like.device).scatter_(1, pairs, 0.0)
