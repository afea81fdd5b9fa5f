"""Generalised doubly reparameterised gradient, of the conditional priors too."""

import torch
from torch import Tensor

from iwae_lab.bounds import normalized_weights
from iwae_lab.console.errors import UserError
from iwae_lab.models.base import LatentVariableModel, conditional
from iwae_lab.models.distributions import Gaussian
from iwae_lab.objectives.base import Estimate, ImportanceWeighted

__all__ = ["GDReG"]


class GDReG(ImportanceWeighted):
    """DReG for the parameters of each p(z_l | z_{l+1}) as well   (Bauer & Mnih 2021, arXiv 2101.11046).

    With z_l = T(ε; z_{l+1}) the sampling path of p(z_l | z_{l+1}), at the ε that gives the z_l drawn from q,
    Σ_i w̃_i ∇log p(z_l | z_{l+1}) has the mean of Σ_i (w̃_i ∂/∂z_l log p(z_{l−1} | z_l) − w̃_i² ∂/∂z_l log w_i) ∇T,
    where z_0 = x and ∂/∂z_l leaves the other layers of z as they are. φ as DReG; the parameters of p(x | z_1) and of
    the prior as IWAE. Unbiased for IWAE; with one stochastic layer it is DReG. Its variance is lower where q is near
    the posterior; far from it, some coordinates have more. p(z_l | z_{l+1}) must be Gaussian.
    """

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.require_samples(k, 1)
        path = _samples(model, x, k)
        z = [here.detach().requires_grad_() for here in path]
        log_p = model.log_joint(x, z)
        posteriors, priors = model.conditionals(x, z)
        log_q = torch.stack([q.log_prob(here) for q, here in zip(posteriors, z, strict=True)]).sum(0)
        log_w = log_p - log_q
        weights = normalized_weights(log_w)
        slopes_p = torch.autograd.grad(log_p.sum(), z, retain_graph=True)
        slopes_w = [p - q for p, q in zip(slopes_p, torch.autograd.grad(log_q.sum(), z), strict=True)]

        gain = weights * log_p  # of θ as IWAE, since z has no graph
        w = weights.unsqueeze(-1)
        for slope, here in zip(slopes_w, path, strict=True):
            gain = gain + (w.square() * slope * here).sum(-1)
        for p, here, slope_p, slope_w in zip(priors[:-1], z[:-1], slopes_p[:-1], slopes_w[:-1], strict=True):
            if not isinstance(p, Gaussian):
                raise UserError(f"GDReG: expected Gaussian p(z_l | z_{{l+1}}), found {type(p).__name__}")
            noise = p.noise_of(here).detach()
            slope_below = slope_p + noise * torch.exp(-p.log_std.detach())  # ∂/∂z_l log p(z_{l−1} | z_l)
            pull = w * slope_below - w.square() * slope_w
            gain = gain + (pull * p.sample(noise)).sum(-1) - weights * p.log_prob(here)
        return Estimate(-gain.sum(0).mean(), log_w)


def _samples(model: LatentVariableModel, x: Tensor, k: int) -> list[Tensor]:
    """k samples of q(z | x), differentiable in φ: one [k, batch, units] per layer."""
    z: list[Tensor] = []
    below = x
    for layer in model.encoder:
        q = conditional(layer, below)
        model.require_continuous(q, "path")
        below = q.sample(q.noise((k, len(x), q[0].shape[-1])))
        z.append(below)
    return z
