"""What an optimizer is made by, and one whose steps differ for matrices and the rest."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.errors import UserError

__all__ = ["MatrixOptimizer", "OptimizerFactory", "require"]


class OptimizerFactory(ABC):
    """Makes the optimizer once parameters exist; the schedule sets its rate before every step."""

    @abstractmethod
    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """An optimizer over `parameters`."""


class MatrixOptimizer(torch.optim.Optimizer, ABC):
    """Steps matrices by `step_matrix`, with decoupled weight decay; all else as Adam does, at the same rate."""

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, **settings: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, **settings})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if parameter.dim() == 2:
                    step = self.step_matrix(parameter.grad, state, group)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"])
                else:
                    self._step_adam(parameter, state, group["lr"])
        return loss

    @abstractmethod
    def step_matrix(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """What the rate times is taken from the matrix [rows, columns]; `state` is empty at its first step."""

    def _step_adam(self, parameter: Tensor, state: dict[str, Any], lr: float) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - self.BETAS[0])
        square = state["square"].lerp_(gradient.square(), 1 - self.BETAS[1])
        mean_scale, square_scale = (1 - beta ** state["step"] for beta in self.BETAS)
        parameter.addcdiv_(mean, square.sqrt().div_(square_scale**0.5).add_(self.EPSILON), value=-lr / mean_scale)


def require(name: str, value: float, holds: bool, expected: str) -> None:
    """Raises `UserError` that names the setting, its value and what was expected, unless `holds`."""
    if not holds:
        raise UserError(f"{name}={value}: expected {expected}")
