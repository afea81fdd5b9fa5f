"""A step of an optimizer, eager or as compiled code. Torch only."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_leaves

from iwae_lab.models.compiling import inductor_options, traced
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.optimizers.base import MatrixOptimizer
from iwae_lab.training.stacked import StackedGradients

__all__ = ["IncompleteState", "Step"]


class IncompleteState(Exception):
    """The optimizer makes more state in its next steps, which must be eager."""


class Step:
    """One step of `optimizer` on a batch's gradients. A `MatrixOptimizer` must be advanced afterwards."""

    def __init__(self, gradients: Gradients | StackedGradients, optimizer: torch.optim.Optimizer) -> None:
        self.gradients = gradients
        self.optimizer = optimizer

    def __call__(self, x: Tensor, rate: float | Tensor) -> Tensor:
        """Take a step on a batch at a learning rate; returns the loss before it, or the losses of stacked models."""
        self._set_rate(rate)
        self.optimizer.zero_grad()
        loss = self.gradients(x)
        if isinstance(self.optimizer, MatrixOptimizer):
            self.optimizer.update()
        else:
            self.optimizer.step()
        return loss

    def compiled(self, x: Tensor) -> Callable[[Tensor, float | Tensor], Tensor]:
        """The same step, with the same noise, for batches of the shape of x. Raises `IncompleteState`.

        On a CPU it is one compiled function. On CUDA, where graphs hold the rest, only the estimate is compiled: its
        matrix products may be in TF32, those of optimizers may not.
        """
        if x.is_cuda:
            return Step(self.gradients.compiled(x), self.optimizer)
        traced, tensors = self.traced(x)
        with torch.no_grad():
            run = torch._inductor.compile(traced, _fakes([x, torch.tensor(0.0), *tensors]), options=inductor_options())

        @torch.no_grad()
        def step(x: Tensor, rate: float | Tensor) -> Tensor:
            self._set_rate(rate)
            (loss,) = run(x, torch.as_tensor(rate, dtype=torch.float32), *tensors)
            return loss

        return step

    def traced(self, x: Tensor) -> tuple[GraphModule, list[Tensor]]:
        """A step as a graph of batch, rate and the returned tensors, which it changes. Raises `IncompleteState`."""
        self._set_rate(0.0)  # of a run that began on CUDA, it is a tensor
        with torch.random.fork_rng(devices=[]):
            rehearsal = copy.deepcopy(self)  # also fills caches, which must not get a tracer's tensors
            rehearsal(x, 0.0)
        if len(rehearsal._state()) != len(self._state()):
            raise IncompleteState
        self.optimizer.zero_grad()
        tensors = list({id(t): t for t in [*self.gradients.tensors(), *self._state()]}.values())

        def step(x: Tensor, rate: Tensor, *inputs: Tensor) -> list[Tensor]:
            # the memo makes deepcopy put an input in the place of each tensor
            memo = {id(t): new.detach().requires_grad_(t.requires_grad) for t, new in zip(tensors, inputs, strict=True)}
            return [copy.deepcopy(self, memo)(x, rate)]

        return traced(step, *_fakes([x, torch.tensor(0.0), *tensors]), operations=ADAM), tensors

    def _set_rate(self, rate: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _state(self) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(list(self.optimizer.state.values())) if isinstance(leaf, Tensor)]


def _fakes(tensors: list[Tensor]) -> list[Any]:
    """Stand-ins without values; code compiled from them can be cached on disk."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    return [mode.from_tensor(t, static_shapes=True) for t in tensors]


def _adam(
    parameters: list[Tensor], gradients: list[Tensor], means: list[Tensor], squares: list[Tensor],
    _: list[Tensor], counts: list[Tensor], *, lr: Tensor, beta1: float, beta2: float, eps: float,
    weight_decay: float, amsgrad: bool, maximize: bool, **_scaling: None,
) -> None:  # fmt: skip
    """`torch._fused_adam_` in elementary operations, which the compiler can fuse with others.

    Powers of β1 and β2 are written as `exp` and used twice, so that the compiler computes them outside its loops.
    """
    assert not (weight_decay or amsgrad or maximize)
    logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
    for parameter, gradient, mean, square, count in zip(parameters, gradients, means, squares, counts, strict=True):
        power1, power2 = torch.stack([count.double() * log for log in logs]).exp()
        mean.lerp_(gradient, 1 - beta1)
        square.lerp_(gradient * gradient, 1 - beta2)
        rate, root = (lr / (1 - power1)).to(mean.dtype), (1 - power2).sqrt().to(mean.dtype)
        parameter.sub_(rate * mean / (square.sqrt() / root + eps))


ADAM = {torch.ops.aten._fused_adam_.tensor_lr: _adam}
