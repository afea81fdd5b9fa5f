"""How well samples are used: effective samples, KL of each unit, and the gradient's signal-to-noise ratio."""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from iwae_lab.bounds import ess
from iwae_lab.evaluation.images import require_images
from iwae_lab.evaluation.noise import image_noise
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Distribution
from iwae_lab.objectives.base import Objective

__all__ = ["KL_THRESHOLD", "SNR_IMAGES", "Diagnosis", "GradientSNR", "SignalToNoise", "diagnose", "gradient_snr"]

SEED = 300
SNR_IMAGES = 20  # in the batch on which commands measure gradients
KL_THRESHOLD = 0.01  # nats; a unit below it is unused


@dataclass(frozen=True)
class Diagnosis:
    """Importance weights and latents of a model on images."""

    ess: Tensor
    """1 / Σ w̃² of k samples, between 1 and k; float64 [images]"""
    kl: list[Tensor]
    """E_x E_q[log q(u | z_{l-1}) − log p(u | z_{l+1})] of each unit u, float64 [units], nats, one per layer;
    all of them sum to E_x KL(q(z | x) ‖ p(z))"""

    @property
    def informative(self) -> list[int]:
        """Units per layer whose KL is above 0.01 nats."""
        return [int((kl > KL_THRESHOLD).sum()) for kl in self.kl]


@torch.no_grad()
def diagnose(model: LatentVariableModel, images: Tensor, k: int, *, seed: int = SEED, batch: int = 20) -> Diagnosis:
    """Diagnose a model from k samples of each binary image [images, pixels]; others raise `UserError`."""
    require_images(model, images)
    dtype = next(model.parameters()).dtype
    effective, kls = [], []
    for start in range(0, len(images), batch):
        x = images[start : start + batch].to(dtype)
        drawn = model.draw(x, k, noise=image_noise(seed, range(start, start + len(x)), x.device))
        effective.append(ess(drawn.log_w.double()))
        layers = zip(*model.conditionals(x, drawn.z), drawn.z, strict=True)
        kls.append([(_unit_log_prob(q, z) - _unit_log_prob(p, z)).double().mean(0) for q, p, z in layers])
    return Diagnosis(torch.cat(effective), [torch.cat(kl).mean(0) for kl in zip(*kls, strict=True)])


def _unit_log_prob(distribution: Distribution, z: Tensor) -> Tensor:
    """log density of each unit: z [k, batch, units] -> [k, batch, units]."""
    return type(distribution)(*(parameter.unsqueeze(-1) for parameter in distribution)).log_prob(z.unsqueeze(-1))


@dataclass(frozen=True)
class SignalToNoise:
    """Moments of one gradient estimator over independent draws."""

    mean: Tensor
    """float64 [coordinates]"""
    variance: Tensor
    """unbiased, float64 [coordinates]"""
    draws: int

    @classmethod
    def of(cls, sum_: Tensor, sum_of_squares: Tensor, draws: int) -> Self:
        """From sums over `draws` gradients, float64 [coordinates] each."""
        mean = sum_ / draws
        return cls(mean, (sum_of_squares - draws * mean.square()).clamp(min=0) / (draws - 1), draws)

    @property
    def overall(self) -> float:
        """‖mean‖ / √(Σ σ²), corrected for what noise adds to ‖mean‖²."""
        signal = (self.mean.square() - self.variance / self.draws).sum().clamp(min=0)
        return (signal / self.variance.sum()).sqrt().item()


@dataclass(frozen=True)
class GradientSNR:
    """Signal-to-noise ratio of the gradients in θ and φ (Rainforth et al. 2018, arXiv 1802.04537)."""

    generative: SignalToNoise
    inference: SignalToNoise


def gradient_snr(
    objective: Objective, model: LatentVariableModel, x: Tensor, k: int, *, draws: int = 30, seed: int = SEED
) -> GradientSNR:
    """Measure an objective's estimator on one minibatch x [batch, pixels], from `draws` gradients, at least 2.

    Leaves model, objective and torch's global generator as they are.
    """
    objective, model = copy.deepcopy((objective, model))
    groups = [model.generative_parameters(), model.inference_parameters()]
    sums = [x.new_zeros(2, sum(p.numel() for p in group), dtype=torch.float64) for group in groups]
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad():
        torch.manual_seed(seed)
        for _ in range(draws):
            model.zero_grad()
            objective(model, x, k).backward(model)
            for total, group in zip(sums, groups, strict=True):
                gradient = _flat_gradient(group).double()
                total += torch.stack([gradient, gradient.square()])
    generative, inference = (SignalToNoise.of(total[0], total[1], draws) for total in sums)
    return GradientSNR(generative, inference)


def _flat_gradient(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
