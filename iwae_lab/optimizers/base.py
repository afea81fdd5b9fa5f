"""What an optimizer is made by, and one whose steps differ for matrices and the rest."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MatrixOptimizer", "OptimizerFactory", "adam_step"]


class OptimizerFactory(ABC):
    """Makes the optimizer once parameters exist; the schedule sets its rate before every step."""

    @abstractmethod
    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """An optimizer over `parameters`."""


class MatrixOptimizer(torch.optim.Optimizer, ABC):
    """Steps matrices by `step_matrix`, with decoupled weight decay; all else as Adam does, at the same rate."""

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
                gradient, state, lr = parameter.grad, self.state[parameter], group["lr"]
                if parameter.dim() == 2:
                    parameter.mul_(1 - lr * group["weight_decay"])
                    step = self.step_matrix(gradient, state, group)
                else:
                    step = adam_step(gradient, state, 0.9, 0.999)
                parameter.add_(step, alpha=-lr)
        return loss

    @abstractmethod
    def step_matrix(self, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """What the rate times is taken from the matrix [rows, columns]; `state` is empty at its first step."""


def adam_step(gradient: Tensor, state: dict[str, Any], beta1: float, beta2: float) -> Tensor:
    """What Adam (Kingma & Ba 2015, algorithm 1) takes from a parameter, over its rate.

    `state` keeps the number of steps (`step`) and running means of the gradient (`mean`) and its square (`square`).
    """
    if "step" not in state:
        state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
    state["step"] += 1
    mean = state["mean"].lerp_(gradient, 1 - beta1)
    square = state["square"].lerp_(gradient.square(), 1 - beta2)
    mean_scale, square_scale = (1 - beta ** state["step"] for beta in (beta1, beta2))
    return mean / square.sqrt().mul_(mean_scale / square_scale**0.5).add_(1e-8 * mean_scale)
