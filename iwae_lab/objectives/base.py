"""What an objective is given and what it gives back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iwae_lab.bounds import iwae_bound
from iwae_lab.console.errors import UserError, require
from iwae_lab.models.base import LatentVariableModel, Noise, fresh_noise
from iwae_lab.objectives.annealing import Annealing
from iwae_lab.objectives.coupling import COUPLINGS

__all__ = ["Estimate", "ImportanceWeighted", "Objective"]


@dataclass(frozen=True)
class Estimate:
    """What an objective makes of one minibatch."""

    loss: Tensor
    """scalar, a mean over the batch; its gradient is the estimator, to be descended"""
    log_w: Tensor
    """log importance weights of the samples used, from which bounds are reported: [k, batch], or
    [k, groups · batch] where each datum has several groups of k samples"""
    inference_loss: Tensor | None = None
    """where θ and φ descend different losses: φ's, and `loss` is θ's"""

    def backward(self, model: LatentVariableModel) -> None:
        """Add the estimator to the `grad` of the parameters of `model`."""
        if self.inference_loss is None:
            self.loss.backward()
        else:
            self.loss.backward(inputs=model.generative_parameters(), retain_graph=True)
            self.inference_loss.backward(inputs=model.inference_parameters())


class Objective(nn.Module, ABC):
    """An estimator of gradients in θ and φ from k samples for each datum.

    The tests hold every objective to what it claims here: the estimator's mean is the gradient of the mean
    of `target` in θ and of `inference_target` in φ.
    """

    is_bound: bool = False
    """whether the mean of `target` is at most log p(x)"""
    compilable: bool = True
    """whether `forward` does the same operations on tensors of the same shapes every time, and leaves its buffers as
    they are: a compiled backward pass may compute again from them, and a CUDA graph does nothing else"""
    couplable: bool = False
    """whether it holds for samples of a datum that depend on each other, as `noise` may make them"""
    noise: Noise = staticmethod(fresh_noise)
    """what a couplable objective draws its samples with"""

    def __init__(self) -> None:
        super().__init__()
        self.annealed: dict[str, Annealing] = {}

    def couple(self, by: str) -> None:
        """Draw the samples of a datum by one of `COUPLINGS`.

        Raises `UserError` where the estimator's derivation needs them to be independent.
        """
        require("noise", by, by in COUPLINGS, f"one of {', '.join(COUPLINGS)}")
        if by != "iid" and not self.couplable:
            raise UserError(f"noise={by}: {type(self).__name__} needs independent samples of an image; expected iid")
        self.noise = COUPLINGS[by]

    @abstractmethod
    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        """The estimate for binary images x [batch, pixels]."""

    def anneal(self, name: str, annealing: Annealing) -> None:
        """Make the float attribute `name` change with the epoch: a tensor then, which compiled code and graphs read."""
        delattr(self, name)
        self.register_buffer(name, torch.tensor(annealing.start), persistent=False)
        self.annealed[name] = annealing

    def begin_epoch(self, epochs_done: int) -> None:
        """Set what is annealed, for the epoch that follows `epochs_done` others."""
        for name, annealing in self.annealed.items():
            self.get_buffer(name).fill_(annealing.value(epochs_done))

    def target(self, log_w: Tensor) -> Tensor | None:
        """What θ maximises on average, a mean over columns, from `Estimate.log_w`. None: nothing of this form."""
        return None

    def inference_target(self, log_w: Tensor) -> Tensor | None:
        """What φ maximises on average, as `target`, which it is by default."""
        return self.target(log_w)


class ImportanceWeighted(Objective):
    """An objective that ascends L_k, in φ too unless it says otherwise."""

    is_bound = True

    def target(self, log_w: Tensor) -> Tensor:
        return iwae_bound(log_w)
