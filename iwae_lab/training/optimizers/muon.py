"""Muon: orthogonalized momentum."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import require
from iwae_lab.training.optimizers.base import MatrixOptimizer, OptimizerFactory, gradient_of

__all__ = ["Muon", "orthogonalize"]


class Muon(OptimizerFactory):
    """Jordan et al. 2024 for matrices, with steps scaled to the size of Adam's (Liu et al. 2025, arXiv 2502.16982).

    All other parameters are updated by Adam at the same rate. `weight_decay` is decoupled, for matrices.
    """

    def __init__(self, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        require("momentum", momentum, 0 <= momentum < 1, "a number from 0 to below 1")
        require("weight_decay", weight_decay, weight_decay >= 0, "a number of at least 0")
        self.momentum = momentum
        self.weight_decay = weight_decay

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return _Muon(parameters, learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)


class _Muon(MatrixOptimizer):
    """Used instead of torch.optim.Muon, which takes only matrices and multiplies in bf16, slow on most CPUs."""

    def matrix_steps(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> list[Tensor]:
        steps = []
        for matrix in matrices:
            gradient, state, momentum = gradient_of(matrix), self.state[matrix], group["momentum"]
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
            average = state["momentum"].lerp_(gradient, 1 - momentum)
            step = orthogonalize(gradient.lerp(average, momentum))
            steps.append(step.mul_(-group["lr"] * 0.2 * max(gradient.shape) ** 0.5))
        return steps


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximates U Vᵀ, where `matrix` [rows, columns] is U S Vᵀ (SVD): sets all singular values to about 1.

    Five steps X ← (aI + bXXᵀ + c(XXᵀ)²)X from X/‖X‖ (Jordan et al. 2024). They run on the Gram matrix XXᵀ of the
    shorter side, and X is multiplied once, in a third of the time for a matrix four times as long as wide.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp_min(1e-7)
    gram = wide @ wide.T
    product = _factor(gram, a, b, c)
    factor = product
    for _ in range(4):
        gram = factor @ gram @ factor
        factor = _factor(gram, a, b, c)
        product = factor @ product
    wide = product @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def _factor(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """aI + b gram + c gram²."""
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
