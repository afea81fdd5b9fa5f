"""Importance weighted autoencoder."""

from iwae_lab.objectives.base import ImportanceWeighted, Reparameterized

__all__ = ["IWAE"]


class IWAE(ImportanceWeighted, Reparameterized):
    """L_k = E[log (1/k) Σ_i w_i]   (Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519, eq. 8).

    Its gradient is Σ_i w̃_i ∇log w_i, with w̃ = softmax(log w) (eq. 14).
    """
