"""Variational autoencoder with k samples."""

from torch import Tensor

from iwae_lab.bounds import elbo
from iwae_lab.objectives.base import Reparameterized

__all__ = ["VAE"]


class VAE(Reparameterized):
    """L = E[(1/k) Σ_i log w_i], the ELBO   (Kingma & Welling 2014, arXiv 1312.6114, eq. 6).

    k samples only lower the variance of its gradient (1/k) Σ_i ∇log w_i.
    """

    is_bound = True

    def target(self, log_w: Tensor) -> Tensor:
        return elbo(log_w)
