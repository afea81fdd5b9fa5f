"""Adam."""

from collections.abc import Iterable

import torch
from torch import nn

from iwae_lab.console.errors import require
from iwae_lab.training.optimizers.base import OptimizerFactory

__all__ = ["Adam"]


class Adam(OptimizerFactory):
    """Kingma & Ba 2015 (arXiv 1412.6980); the paper's text has β1 = 0.9, β2 = 0.999, ε = 1e-4."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-4) -> None:
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            require(name, value, 0 <= value < 1, "a number from 0 to below 1")
        require("eps", eps, eps > 0, "a number above 0")
        self.betas = (beta1, beta2)
        self.eps = eps

    def make(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        # capturable on every device, since a run may resume on another, and a graph only holds such an Adam
        return torch.optim.Adam(parameters, learning_rate, self.betas, self.eps, fused=True, capturable=True)
