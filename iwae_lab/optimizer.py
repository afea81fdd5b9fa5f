"""Optimizers as the configuration names them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import nn

from iwae_lab.errors import UserError

__all__ = ["Adam", "OptimizerFactory"]


class OptimizerFactory(ABC):
    """Makes the optimizer once parameters exist; the schedule sets its rate before every step."""

    @abstractmethod
    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """An optimizer over `parameters`."""


class Adam(OptimizerFactory):
    """Kingma & Ba 2015; the paper's text has β1 = 0.9, β2 = 0.999, ε = 1e-4."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-4) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise UserError(f"{name}={value}: expected a number from 0 to below 1")
        if not epsilon > 0:
            raise UserError(f"epsilon={epsilon}: expected a number above 0")
        self.betas = (beta1, beta2)
        self.epsilon = epsilon

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, learning_rate, self.betas, self.epsilon, fused=True)
