"""Bounds and weights from log importance weights log_w [k, batch], in nats. Torch only.

Every bound and NLL the project reports comes from `iwae_bound` or its streaming form, whatever an
objective differentiates.
"""

import math

import torch
from torch import Tensor

__all__ = ["StreamingBounds", "elbo", "ess", "iwae_bound", "log_sum_of_others", "normalized_weights"]


def iwae_bound(log_w: Tensor) -> Tensor:
    """L̂_k = log (1/k) Σ_i w_i per datum (Burda et al. 2016, eq. 8). [k, batch] -> [batch], nats."""
    return torch.logsumexp(log_w, dim=0) - math.log(len(log_w))


def elbo(log_w: Tensor) -> Tensor:
    """(1/k) Σ_i log w_i per datum: the k-sample estimate of the ELBO. [k, batch] -> [batch], nats."""
    return log_w.mean(0)


def normalized_weights(log_w: Tensor) -> Tensor:
    """w̃_i = w_i / Σ_j w_j per datum, cut from the graph. [k, batch] -> [k, batch]."""
    return torch.softmax(log_w.detach(), dim=0)


def log_sum_of_others(log_w: Tensor) -> Tensor:
    """log Σ_{j≠i} w_j for each sample i, cut from the graph; −∞ where k = 1. [k, batch] -> [k, batch]."""
    log_w = log_w.detach()
    total = torch.logsumexp(log_w, dim=0)
    share = torch.exp(log_w - total)  # at most 1/2 except for the largest, whose complement may round to zero
    largest = torch.arange(len(log_w), device=log_w.device).unsqueeze(-1) == log_w.argmax(0)
    without_largest = torch.logsumexp(log_w.masked_fill(largest, -torch.inf), dim=0)
    return torch.where(largest, without_largest, total + torch.log1p(-share.clamp_max(0.5)))


def ess(log_w: Tensor) -> Tensor:
    """1 / Σ_i w̃_i² per datum, between 1 and k. [k, batch] -> [batch]."""
    return 1 / normalized_weights(log_w).square().sum(0)


class StreamingBounds:
    """Streaming version of the bounds above: takes log-weights in chunks, keeps three float64 numbers per datum."""

    iwae_bound: Tensor
    """[batch], nats"""
    elbo: Tensor
    """[batch], nats"""
    log_sum_of_squares: Tensor
    """log Σ_i w_i² [batch]"""

    def __init__(self) -> None:
        self.k = 0

    def add(self, log_w: Tensor) -> None:
        """Add the log-weights [chunk, batch] of more samples of the same data."""
        log_w = log_w.double()
        bound, mean, squares = iwae_bound(log_w), elbo(log_w), torch.logsumexp(2 * log_w, dim=0)
        share = len(log_w) / (self.k + len(log_w))
        if self.k:
            bound = torch.logaddexp(self.iwae_bound + math.log1p(-share), bound + math.log(share))
            mean = (1 - share) * self.elbo + share * mean  # `lerp` makes a NaN of −∞
            squares = torch.logaddexp(self.log_sum_of_squares, squares)
        self.iwae_bound, self.elbo, self.log_sum_of_squares = bound, mean, squares
        self.k += len(log_w)

    @property
    def ess(self) -> Tensor:
        """(Σ_i w_i)² / Σ_i w_i² per datum, between 1 and k. [batch]."""
        return torch.exp(2 * (self.iwae_bound + math.log(self.k)) - self.log_sum_of_squares)
