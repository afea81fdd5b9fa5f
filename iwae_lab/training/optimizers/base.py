"""The interface of optimizers, and a base class for those that treat matrices separately."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MatrixOptimizer", "OptimizerFactory", "adam_steps", "gradient_of"]


class OptimizerFactory(ABC):
    """Makes the optimizer once the parameters exist; training sets the learning rate before every step.

    Constructors raise `UserError` for parameters out of range.
    """

    @abstractmethod
    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """An optimizer over `parameters`."""


class MatrixOptimizer(torch.optim.Optimizer, ABC):
    """Updates matrices by `matrix_steps`, with decoupled weight decay, and other parameters by Adam at the same rate.

    `update` consists of tensor operations alone, so that a CUDA graph can capture it (`capturable` tells torch to keep
    step counts on the device). `advance` follows it, and calls `refresh` every `period` steps. The learning rate is a
    number or a scalar tensor.
    """

    period: int | None = None
    """steps between two calls of `refresh`"""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, **settings: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, "steps": 0, "capturable": True, **settings})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.update()
        self.advance(1)

    @torch.no_grad()
    def update(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            matrices, others = [p for p in given if p.dim() == 2], [p for p in given if p.dim() != 2]
            if matrices:
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, self.matrix_steps(matrices, group))
            if others:
                states = [self.state[p] for p in others]
                torch._foreach_add_(
                    others, adam_steps([gradient_of(p) for p in others], states, group["lr"], 0.9, 0.999)
                )

    def advance(self, steps: int) -> None:
        """Count `steps` updates, at most `steps_to_refresh()`, and call `refresh` if it is due."""
        due = self.steps_to_refresh() == steps
        for group in self.param_groups:
            group["steps"] += steps
        if due:
            self.refresh()

    def steps_to_refresh(self) -> int | None:
        """How many updates remain until `refresh` is due; None if it never is."""
        return self.period and self.period - self.param_groups[0]["steps"] % self.period

    @abstractmethod
    def matrix_steps(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> list[Tensor]:
        """What to add to each matrix [rows, columns]; the state of a matrix is empty at its first step."""

    @torch.no_grad()
    def refresh(self) -> None:
        """Called every `period` steps."""


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter that has one."""
    assert parameter.grad is not None
    return parameter.grad


def adam_steps(
    gradients: list[Tensor], states: list[dict[str, Any]], lr: float | Tensor, beta1: float, beta2: float
) -> list[Tensor]:
    """What Adam (Kingma & Ba 2015, algorithm 1) adds to the parameters with these gradients.

    Each of `states` keeps the number of steps (`step`) and running means of the gradient (`mean`) and its square
    (`square`).
    """
    for gradient, state in zip(gradients, states, strict=True):
        if "step" not in state:
            state["step"] = torch.zeros((), device=gradient.device)
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    counts, means, squares = ([state[name] for state in states] for name in ("step", "mean", "square"))
    torch._foreach_add_(counts, 1)
    steps = [torch.zeros_like(gradient) for gradient in gradients]
    torch._fused_adam_(
        steps, gradients, means, squares, [], counts,
        lr=lr, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    return steps
