"""Antithetic gradient for Bernoulli latents."""

from __future__ import annotations  # torch 2.6 compiles no generic alias, as that of `record` is

import torch
from torch import Tensor

from iwae_lab.bounds import elbo, iwae_bound, log_sum_of_others, normalized_weights
from iwae_lab.console.errors import UserError, require_one_of
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli, Distribution
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["DisARM"]


class DisARM(Objective):
    """φ, at each logit a: ½ (f(b) − f(b̃)) (b − b̃) σ(|a|)   (Dong, Mnih & Tucker 2020, arXiv 2006.10680).

    b = [u < σ(a)] and its antithetic b̃ = [1 − u < σ(a)]; b − b̃ is the paper's (−1)^b̃ 1[b ≠ b̃]. With bound="elbo", f is
    (1/k) log w; with bound="iwae" it is L̂_k − w̃_i, where the antithetic takes the place of sample i alone. (The paper
    leaves −w̃_i ∇log q, the derivative of L̂_k itself, outside; in f it has less variance.) Unbiased for the bound.
    With several layers each has an antithetic of its own, with b's noise in the layers above; they are evaluated
    without a graph, so a step takes k samples in both directions and k more per layer forwards. Bernoulli latents only;
    others raise `UserError`.
    """

    is_bound = True
    compilable = True

    def __init__(self, bound: str = "iwae") -> None:
        super().__init__()
        require_one_of("bound", bound, ("iwae", "elbo"))
        self.bound = bound

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        posteriors: list[Distribution] = []

        def record(q: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
            posteriors.append(q)
            return q.noise(shape)

        draw = model.draw(x, k, "score", record)
        log_w = draw.log_w.detach()
        weights = normalized_weights(log_w) if self.bound == "iwae" else torch.full_like(log_w, 1 / k)
        gain = (weights * draw.log_p).sum(0)
        for level, (q, noise) in enumerate(zip(posteriors, draw.noise, strict=True)):
            if not isinstance(q, Bernoulli):
                raise UserError("DisARM: expected a model with Bernoulli latents, such as sigmoid_belief")
            other = self._antithetic(model, x, draw.noise, level)
            slope = (q.sample(noise) - q.sample(1 - noise)) * torch.sigmoid(q.logits.detach().abs())
            signal = self._difference(log_w, other) / 2
            gain = gain + (signal.unsqueeze(-1) * slope * q.logits).sum((0, -1))
        return Estimate(-gain.mean(), draw.log_w)

    @staticmethod
    @torch.no_grad()
    def _antithetic(model: LatentVariableModel, x: Tensor, noise: list[Tensor], level: int) -> Tensor:
        """log w [k, batch] of the samples whose noise is antithetic in one layer."""
        return model.log_weights(
            x, len(noise[0]), lambda q, here, shape: 1 - noise[here] if here == level else noise[here]
        )

    def _difference(self, log_w: Tensor, other: Tensor) -> Tensor:
        """f(b) − f(b̃) [k, batch]."""
        if self.bound == "elbo":
            return (log_w - other) / len(log_w)
        highest = log_w.max(0).values  # float32 would lose the difference in logs near log p(x)
        log_w, other = log_w - highest, other - highest
        total, replaced = torch.logsumexp(log_w, 0), torch.logaddexp(log_sum_of_others(log_w), other)
        return total - replaced - torch.exp(log_w - total) + torch.exp(other - replaced)

    def target(self, log_w: Tensor) -> Tensor:
        return iwae_bound(log_w) if self.bound == "iwae" else elbo(log_w)
