"""Adam as in the published code of Burda, Grosse & Salakhutdinov, which gave the numbers in their paper."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iwae_lab.console.errors import require
from iwae_lab.training.optimizers.base import OptimizerFactory

__all__ = ["AdamAuthors"]


class AdamAuthors(OptimizerFactory):
    """The update in optimizers.py of https://github.com/yburda/iwae, where g is the gradient of the summed loss.

    Step t = 1, 2, … changes a parameter by −lr·√(1 − β2ᵗ)/(1 − β1ᵗ) · m/(√v + ε) and then m to β1 m + (1 − β1) g and
    v to β2 v + (1 − β2) g². It differs from Kingma & Ba 2015 in four ways: v starts at one (m at zero), ε is outside
    the bias correction, the gradient is a sum, and m and v don't include the step's own gradient (Theano computes
    all updates from the values before the step), so the first step only fills m and v.

    Our losses are means, so g is `batch_size` times their gradient: the same as the mean's gradient with ε/batch_size
    and v starting at 1/batch_size². A smaller last batch also counts as `batch_size` images.
    """

    def __init__(self, batch_size: int, beta1: float = 0.99, beta2: float = 0.999, eps: float = 1e-4) -> None:
        require("batch_size", batch_size, batch_size >= 1, "an integer of at least 1")
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            require(name, value, 0 < value < 1, "a number above 0 and below 1")
        require("eps", eps, eps > 0, "a number above 0")
        self.settings = {"batch_size": batch_size, "beta1": beta1, "beta2": beta2, "eps": eps}

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return _AdamAuthors(parameters, {"lr": learning_rate, **self.settings, "capturable": True})


class _AdamAuthors(torch.optim.Optimizer):
    """A CUDA graph can capture its steps: the step count is a tensor, and the rate may be one.

    `capturable` makes torch keep the count on the parameter's device when it loads a state.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            self._step([parameter for parameter in group["params"] if parameter.grad is not None], group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.ones_like(parameter),
                }
        steps, means, squares = (
            [self.state[parameter][key] for parameter in parameters] for key in ("step", "mean", "square")
        )
        beta1, beta2, images = group["beta1"], group["beta2"], group["batch_size"]
        torch._foreach_add_(steps, 1)
        counts = [step.to(parameter.dtype) for step, parameter in zip(steps, parameters, strict=True)]
        rates = torch._foreach_div(
            torch._foreach_sqrt(_one_minus_power(beta2, counts)), _one_minus_power(beta1, counts)
        )
        torch._foreach_mul_(rates, group["lr"])
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_div_(denominators, rates)
        torch._foreach_addcdiv_(parameters, means, denominators, value=-1)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, gradients, alpha=(1 - beta1) * images)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=(1 - beta2) * images**2)


def _one_minus_power(beta: float, counts: list[Tensor]) -> tuple[Tensor, ...]:
    """1 − βᵗ for each t in `counts`, accurate also when it is small."""
    return torch._foreach_neg(torch._foreach_expm1(torch._foreach_mul(counts, math.log(beta))))
