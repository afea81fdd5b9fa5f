"""The gradients of a batch, and the sums that an epoch logs. Torch only."""

import copy

import torch
from torch import Tensor

from iwae_lab.bounds import ess, iwae_bound
from iwae_lab.console.errors import UserError, require_one_of
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.compiling import compiled
from iwae_lab.models.precision import PRECISIONS, autocast, products_for_training
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["Gradients"]


class Gradients:
    """Adds an objective's estimator with k samples to the `grad` of parameters.

    sums: L̂_k, loss and effective sample size, summed over the images of all batches, float64 [3]; changed in place.
    Raises `UserError` for another `precision`.
    """

    def __init__(self, model: LatentVariableModel, objective: Objective, k: int, precision: str = "32") -> None:
        self.model = model
        self.objective = objective
        self.k = k
        require_one_of("precision", precision, PRECISIONS)
        self.precision = precision
        self.sums = torch.zeros(3, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        """Add the gradients of a batch [batch, pixels]; returns its loss."""
        with products_for_training(x.device):
            loss, log_w, inference_loss, means = self.estimate(x)
            estimate = Estimate(loss, log_w, inference_loss)
            if not loss.requires_grad:
                name = type(self.objective).__name__
                raise UserError(f"objective={name}: expected a loss with a gradient, found one without")
            self.sums.add_(means, alpha=len(x))
            estimate.backward(self.model)
        return loss.detach()

    def estimate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The estimate, and the means that `sums` adds up; a pure function."""
        with autocast(x.device, self.precision):
            estimate = self.objective(self.model, x, self.k)
        name = type(self.objective).__name__
        if not isinstance(estimate, Estimate):
            raise UserError(f"objective={name}: expected an Estimate, found {type(estimate).__name__}")
        if not isinstance(estimate.loss, Tensor) or estimate.loss.dim():
            found = f"shape {list(estimate.loss.shape)}" if isinstance(estimate.loss, Tensor) else estimate.loss
            raise UserError(f"objective={name}: expected a scalar tensor as loss, found {found}")
        shape = list(estimate.log_w.shape)
        if len(shape) != 2 or shape[1] % len(x):
            raise UserError(f"objective={name}: expected log_w [k, batch], with a batch of {len(x)}, found {shape}")
        with torch.no_grad():
            log_w = estimate.log_w.float()
            means = torch.stack([iwae_bound(log_w).mean(), estimate.loss.float(), ess(log_w).mean()])
        return estimate.loss, log_w, estimate.inference_loss, means

    def start_sums(self, device: torch.device) -> None:
        """Reset the sums, on `device`."""
        if self.sums.device != device:
            self.sums = self.sums.to(device)
        self.sums.zero_()  # in place, since graphs add to it

    def tensors(self) -> list[Tensor]:
        """Every tensor that a call reads or changes."""
        modules = self.model, self.objective
        return [self.sums, *(t for module in modules for t in (*module.parameters(), *module.buffers()))]

    def compiled(self, x: Tensor) -> "Gradients":
        """A copy whose estimate is compiled for batches of the shape of x. Clears the gradients of parameters."""
        copied = copy.copy(self)
        copied.estimate = compiled(self.estimate)  # type: ignore[method-assign]
        rehearsal = copy.copy(copied)
        rehearsal.sums = torch.zeros_like(self.sums)
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            rehearsal(x)  # compiles it, and its derivative
        self.model.zero_grad()
        self.objective.zero_grad()
        return copied
