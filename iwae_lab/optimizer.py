"""Optimizers as the configuration names them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.errors import UserError

__all__ = ["Adam", "Muon", "OptimizerFactory", "orthogonalize"]


class OptimizerFactory(ABC):
    """Makes the optimizer once parameters exist; the schedule sets its rate before every step."""

    @abstractmethod
    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """An optimizer over `parameters`."""


class Adam(OptimizerFactory):
    """Kingma & Ba 2015; the paper's text has β1 = 0.9, β2 = 0.999, ε = 1e-4."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-4) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            _require(name, value, 0 <= value < 1, "a number from 0 to below 1")
        _require("epsilon", epsilon, epsilon > 0, "a number above 0")
        self.betas = (beta1, beta2)
        self.epsilon = epsilon

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, learning_rate, self.betas, self.epsilon, fused=True)


class Muon(OptimizerFactory):
    """Jordan et al. 2024 for matrices, whose steps are scaled to Adam's size (Liu et al. 2025, arXiv 2502.16982).

    Everything that is no matrix gets Adam's steps, at the same rate. `weight_decay` is decoupled, for matrices.
    """

    def __init__(self, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        _require("momentum", momentum, 0 <= momentum < 1, "a number from 0 to below 1")
        _require("weight_decay", weight_decay, weight_decay >= 0, "a number of at least 0")
        self.momentum = momentum
        self.weight_decay = weight_decay

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return _MuonAndAdam(parameters, learning_rate, self.momentum, self.weight_decay)


class _MuonAndAdam(torch.optim.Optimizer):
    """torch.optim.Muon takes bf16 products, slow on most CPUs, and matrices alone; this one steps whole models."""

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move = self._muon if parameter.dim() == 2 else self._adam
                    move(parameter, parameter.grad, self.state[parameter], **group)
        return loss

    @staticmethod
    def _muon(
        matrix: Tensor, gradient: Tensor, state: dict[str, Tensor], lr: float, momentum: float, weight_decay: float,
        **_: Any,
    ) -> None:  # fmt: skip
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        average = state["momentum"].lerp_(gradient, 1 - momentum)
        direction = orthogonalize(gradient.lerp(average, momentum))
        matrix.mul_(1 - lr * weight_decay).add_(direction, alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)

    def _adam(self, vector: Tensor, gradient: Tensor, state: dict[str, Any], lr: float, **_: Any) -> None:
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(vector), "square": torch.zeros_like(vector)}
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - self.BETAS[0])
        square = state["square"].lerp_(gradient.square(), 1 - self.BETAS[1])
        mean_scale, square_scale = (1 - beta ** state["step"] for beta in self.BETAS)
        vector.addcdiv_(mean, square.sqrt().div_(square_scale**0.5).add_(self.EPSILON), value=-lr / mean_scale)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Nearly U Vᵀ of the singular value decomposition U S Vᵀ of `matrix` [rows, columns]: singular values about 1.

    Five steps X ← (aI + bXXᵀ + c(XXᵀ)²)X from X/‖X‖ (Jordan et al. 2024). They act on the Gram matrix XXᵀ of the
    shorter side and meet X once, at the end, which takes a third of the time for a matrix four times as long as wide.
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


def _require(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(f"{name}={value}: expected {expected}")
