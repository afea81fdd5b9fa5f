"""ELBO with a weighted KL term."""

import math

from torch import Tensor

from iwae_lab.bounds import elbo
from iwae_lab.console.errors import require
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["BetaVAE"]


class BetaVAE(Objective):
    """E log p(x | z) − β KL(q(z | x) ‖ p(z)), from k samples   (Higgins et al., ICLR 2017).

    As `vae` with β = 1. Annealed from 0 to 1 it is KL warm-up (Bowman et al. 2016, arXiv 1511.06349; Sønderby et al.
    2016, arXiv 1602.02282): objective.beta={from: 0, to: 1, epochs: 100}. A lower bound of log p(x) for β ≥ 1. The
    bounds reported are those of the model, with β = 1.
    """

    compilable = True
    couplable = True

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        require("beta", beta, 0 <= beta < math.inf, "a number of at least 0")
        self.beta = beta

    @property
    def is_bound(self) -> bool:  # type: ignore[override]
        return bool(self.beta >= 1)

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        draw = model.draw(x, k, noise=self.noise)
        kl = draw.log_q - model.log_prior(draw.z)
        return Estimate((-elbo(draw.log_w) + (self.beta - 1) * elbo(kl)).mean(), draw.log_w)

    def target(self, log_w: Tensor) -> Tensor | None:
        return elbo(log_w) if self.beta == 1 else None
