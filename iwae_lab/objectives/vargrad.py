"""Score-function gradient of the ELBO with leave-one-out baselines."""

from torch import Tensor

from iwae_lab.bounds import elbo
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["VarGrad"]


class VarGrad(Objective):
    """φ: 1/(k−1) Σ_i (log w_i − mean_j log w_j) ∇log q(z_i | x); θ: (1/k) Σ_i ∇log p(x, z_i).

    The gradient in φ of half the variance of log w over fixed samples (Richter et al. 2020, arXiv 2010.10436), negated;
    also REINFORCE with the mean of the other samples as baseline (Kool et al. 2019). Unbiased for the ELBO; samples
    need no derivative, so latents may be discrete. k ≥ 2.
    """

    is_bound = True
    compilable = True

    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        self.require_samples(k, 2)  # the baseline of one is the others
        draw = model.draw(x, k, "score")
        log_w = draw.log_w.detach()
        signal = (log_w - log_w.mean(0)) / (k - 1)
        return Estimate(-((signal * draw.log_q).sum(0) + draw.log_p.mean(0)).mean(), draw.log_w)

    def target(self, log_w: Tensor) -> Tensor:
        return elbo(log_w)
