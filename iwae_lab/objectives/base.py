"""The interface of objectives: what they receive and what they return."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iwae_lab.bounds import iwae_bound
from iwae_lab.console.errors import UserError, require, require_one_of
from iwae_lab.models.base import LatentVariableModel, Noise, fresh_noise
from iwae_lab.objectives.coupling import COUPLINGS
from iwae_lab.objectives.parameter_schedule import ParameterSchedule

__all__ = ["Estimate", "ImportanceWeighted", "Objective", "Reparameterized"]


@dataclass(frozen=True)
class Estimate:
    """The result of an objective on one minibatch."""

    loss: Tensor
    """scalar, a mean over the batch, nats; its gradient is the estimator, to be descended"""
    log_w: Tensor
    """log importance weights (nats) of the samples used, from which bounds are reported: [k, batch], or
    [k, groups · batch] where each datum has several groups of k samples"""
    inference_loss: Tensor | None = None
    """where θ and φ descend different losses: φ's, and `loss` is θ's"""

    def backward(self, model: LatentVariableModel) -> None:
        """Add the estimator to the `grad` of the parameters of `model`."""
        if self.inference_loss is None:
            self.loss.backward()
        else:
            _backward(self.loss, model.generative_parameters(), retain_graph=True)
            _backward(self.inference_loss, model.inference_parameters())


def _backward(loss: Tensor, parameters: list[nn.Parameter], retain_graph: bool = False) -> None:
    """Add the derivatives of a loss to the `grad` of those parameters that are not frozen."""
    if trainable := [parameter for parameter in parameters if parameter.requires_grad]:
        loss.backward(inputs=trainable, retain_graph=retain_graph)


class Objective(nn.Module, ABC):
    """An estimator of gradients in θ and φ from k samples for each datum.

    Constructors raise `UserError` for parameters out of range.
    The tests check what every objective claims here: that the estimator's mean is the gradient of the mean of `target`
    in θ and of `inference_target` in φ.
    """

    is_bound: bool = False
    """whether the mean of `target` is at most log p(x)"""
    compilable: bool = False
    """whether `forward` runs the same operations on the same shapes every time and changes no buffer or attribute, as
    compiled code and CUDA graphs require: they repeat the operations of one call"""
    couplable: bool = False
    """whether the estimator is still valid where a datum's samples depend on each other (`couple`)"""
    noise: Noise = staticmethod(fresh_noise)
    """from which a couplable objective draws its samples"""

    def __init__(self) -> None:
        super().__init__()
        self.annealed: dict[str, ParameterSchedule] = {}

    def couple(self, by: str) -> None:
        """Draw the samples of a datum by one of `COUPLINGS`.

        Raises `UserError` where the estimator's derivation needs them to be independent.
        """
        require_one_of("noise", by, COUPLINGS)
        if by != "iid" and not self.couplable:
            raise UserError(f"noise={by}: {type(self).__name__} needs independent samples of an image; expected iid")
        self.noise = COUPLINGS[by]

    @abstractmethod
    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        """The estimate for binary images x [batch, pixels]. Raises `UserError` for a k or a model it does not take."""

    def require_samples(self, k: int, least: int) -> None:
        """Raises `UserError` for fewer than `least` samples."""
        require("k", k, k >= least, f"at least {least} for {type(self).__name__}")

    def attributes(self) -> dict[str, str]:
        """The attributes whose changes compiled code would miss, by name: all but parameters, buffers and modules."""
        return {name: repr(value) for name, value in vars(self).items() if name not in vars(nn.Module())}

    def anneal(self, name: str, schedule: ParameterSchedule) -> None:
        """Let the float attribute `name` change with the epoch, as a tensor that compiled code and graphs read."""
        delattr(self, name)
        self.register_buffer(name, torch.tensor(float(schedule.start)), persistent=False)
        self.annealed[name] = schedule

    def begin_epoch(self, epochs_done: int) -> None:
        """Set the annealed parameters for the epoch after `epochs_done` finished ones."""
        for name, schedule in self.annealed.items():
            self.get_buffer(name).fill_(schedule.value(epochs_done))

    def target(self, log_w: Tensor) -> Tensor | None:
        """The function of `Estimate.log_w` whose mean θ ascends, [columns], nats; None where there is none."""
        return None

    def inference_target(self, log_w: Tensor) -> Tensor | None:
        """The same for φ; `target` by default."""
        return self.target(log_w)


class ImportanceWeighted(Objective):
    """Base of the objectives that ascend L_k, in φ too unless they say otherwise."""

    is_bound = True

    def target(self, log_w: Tensor) -> Tensor:
        return iwae_bound(log_w)


class Reparameterized(Objective):
    """Base of the objectives that are the derivative of `target` at k reparameterised samples."""

    compilable = True
    couplable = True

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        log_w = model.log_weights(x, k, self.noise)
        return Estimate(-self.target(log_w).mean(), log_w)

    @abstractmethod
    def target(self, log_w: Tensor) -> Tensor:
        """The function of log w [k, batch] whose mean θ and φ ascend, [batch], nats."""
