"""The gradients of several models at once, by operations on stacks of their parameters. Torch only."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from iwae_lab.models.compiling import compiled, traced
from iwae_lab.models.precision import products_for_training
from iwae_lab.training.gradients import Gradients

__all__ = ["StackedGradients"]


class StackedGradients:
    """`Gradients` of models that differ in the values of their parameters alone, each on a batch and noise of its own.

    Each operation is executed once for all models, by torch.func. So it must be the same for all of them: the objective
    must be `compilable`. Buffers are those of the first.
    """

    def __init__(self, members: Sequence[Gradients]) -> None:
        self.members = list(members)
        self.estimator = _EstimateModule(members[0])
        named = [{n: p for n, p in _EstimateModule(m).named_parameters() if p.requires_grad} for m in members]
        self.names = list(named[0])
        self.parameters = [[own[name] for own in named] for name in self.names]
        inference = {id(parameter) for parameter in members[0].model.inference_parameters()}
        self.inference = [id(of_first) in inference for of_first, *_ in self.parameters]
        self.rehearsed = False

    def __call__(self, x: Tensor) -> Tensor:
        """Set the gradients for batches x [models, batch, pixels] and add to the sums; returns the losses [models]."""
        self._rehearse(x)
        with products_for_training(x.device):
            losses, means, *gradients = self.estimate(x, *self._stacks())
        torch._foreach_add_([member.sums for member in self.members], list(means.double()), alpha=x.shape[1])
        for same, stack in zip(self.parameters, gradients, strict=True):
            for parameter, gradient in zip(same, stack, strict=True):
                parameter.grad = gradient
        return losses

    def estimate(self, x: Tensor, *stacks: Tensor) -> tuple[Tensor, ...]:
        """Losses [models], the means that `sums` adds up [models, 3], and stacks of gradients; a pure function."""
        return vmap(self._of_one, randomness="different")(x, *stacks)

    def _of_one(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        def losses(*parameters: Tensor) -> tuple[list[Tensor], Tensor]:
            named = dict(zip(self.names, parameters, strict=True))
            loss, _, inference_loss, means = functional_call(self.estimator, named, (x,))
            return [loss] if inference_loss is None else [loss, inference_loss], means

        found, gradients_of, means = vjp(losses, *parameters, has_aux=True)  # type: ignore[misc]
        one, zero = torch.ones_like(found[0]), torch.zeros_like(found[0])
        if len(found) == 1:
            return found[0], means, *gradients_of([one])
        of_each_loss = zip(self.inference, gradients_of([one, zero]), gradients_of([zero, one]), strict=True)
        return found[0], means, *(second if inference else first for inference, first, second in of_each_loss)

    def tensors(self) -> list[Tensor]:
        """Every tensor that a call reads or changes."""
        return [tensor for member in self.members for tensor in member.tensors()]

    def compiled(self, x: Tensor) -> "StackedGradients":
        """A copy whose `estimate` is compiled for batches of the shape of x."""
        self._rehearse(x)
        copied, inputs = copy.copy(self), [x, *self._stacks()]
        # from a trace, since torch.compile can't vmap an autograd.Function
        copied.estimate = compiled(traced(self.estimate, *inputs))  # type: ignore[method-assign]
        with products_for_training(x.device), torch.random.fork_rng([x.device] if x.is_cuda else []):
            copied.estimate(*inputs)
        return copied

    def _rehearse(self, x: Tensor) -> None:
        """Fill caches, which must not get the tensors of torch.func."""
        if not self.rehearsed:
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                copy.deepcopy(self.members[0])(x[0])
            self.rehearsed = True

    def _stacks(self) -> list[Tensor]:
        return [torch.stack([parameter.detach() for parameter in same]) for same in self.parameters]


class _EstimateModule(nn.Module):
    """`Gradients.estimate` as a module, whose parameters `functional_call` replaces."""

    def __init__(self, gradients: Gradients) -> None:
        super().__init__()
        self.model, self.objective = gradients.model, gradients.objective
        self.estimate = gradients.estimate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        return self.estimate(x)
