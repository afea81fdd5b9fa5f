"""What an objective is given and what it gives back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from iwae_lab.model import LatentVariableModel

__all__ = ["Estimate", "Objective"]


@dataclass(frozen=True)
class Estimate:
    """What an objective makes of one minibatch."""

    loss: Tensor
    """scalar, a mean over the batch; its gradient is the estimator, to be descended"""
    log_w: Tensor
    """log importance weights [k, batch] of the samples used, from which bounds are reported"""


class Objective(nn.Module, ABC):
    """An estimator of gradients in θ and φ from k samples for each datum."""

    @abstractmethod
    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        """The estimate for binary images x [batch, pixels]."""
