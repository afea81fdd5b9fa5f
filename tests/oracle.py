"""Models whose log p(x), posterior and expected gradients are known, and tests of estimators against them."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import scipy.stats
import torch
from torch import Tensor, nn

from iwae_lab.models.base import LatentVariableModel, Noise, fresh_noise
from iwae_lab.models.distributions import Gaussian, StandardNormal
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork
from iwae_lab.objectives.base import Objective

PIXELS = 2
X = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
BINARY_X = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


class Affine(nn.Module):
    """h [rows, n_in] -> N(W h + b, σ²)."""

    def __init__(self, weight: Tensor, bias: Tensor, log_std: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.log_std = nn.Parameter(weight), nn.Parameter(bias), nn.Parameter(log_std)

    def forward(self, h: Tensor) -> Gaussian:
        mean = h @ self.weight.T + self.bias
        return Gaussian(mean, self.log_std.expand_as(mean))


class LinearGaussian(LatentVariableModel):
    """z_L ~ N(0, I), each layer below affine in the one above; q likewise, upwards from x. float64."""

    def __init__(self, encoder: list[Affine], decoder: list[Affine]) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.register_buffer("zeros", torch.zeros(decoder[-1].weight.shape[1], dtype=torch.float64))

    def prior(self) -> StandardNormal:
        return StandardNormal(self.zeros)

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x) [batch], differentiable in θ."""
        *_, (mean, covariance) = self.marginals()
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)

    def marginals(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and covariance of z_L, …, z_1, x."""
        found = [(self.zeros, torch.eye(len(self.zeros), dtype=torch.float64))]
        for layer in reversed(self.decoder):
            mean, covariance = found[-1]
            noise = torch.diag((2 * layer.log_std).exp())
            found.append((layer.weight @ mean + layer.bias, layer.weight @ covariance @ layer.weight.T + noise))
        return found


def linear_gaussian(layers: int, exact: bool = False) -> LinearGaussian:
    """A model whose encoder is near its posterior, or with `exact` is its posterior; two units in every layer.

    The posterior of a chain is a chain, q(z_1 | x) q(z_2 | z_1) …, of Gaussian factors. For `exact` the units
    of a layer are independent of each other, as the encoder has them.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def affine() -> Affine:
        return Affine(0.8 * normal(2, PIXELS), 0.3 * normal(2), 0.3 * normal(2) - 0.3)

    model = LinearGaussian([affine() for _ in range(layers)], [affine() for _ in range(layers)])
    with torch.no_grad():
        if exact:
            for layer in model.decoder:
                layer.weight.copy_(torch.diag(layer.weight.diagonal()))
        marginals = model.marginals()[::-1]  # of x, z_1, …, z_L
        for encoder, decoder, below, above in zip(model.encoder, model.decoder, marginals, marginals[1:], strict=False):
            (below_mean, below_covariance), (mean, covariance) = below, above
            gain = covariance @ decoder.weight.T @ below_covariance.inverse()
            encoder.weight.copy_(gain)
            encoder.bias.copy_(mean - gain @ below_mean)
            encoder.log_std.copy_((covariance - gain @ decoder.weight @ covariance).diagonal().log() / 2)
        if not exact:
            for parameter in model.encoder.parameters():
                parameter.add_(0.2 * normal(*parameter.shape))
            for layer in model.encoder:
                layer.log_std.add_(0.2)  # wider than the posterior, for weights without heavy tails
    return model


def sigmoid_belief(layers: int) -> SigmoidBeliefNetwork:
    """Small enough that every state of its latents can be listed. float64."""
    model = SigmoidBeliefNetwork([2, 1][:layers], [[]] * layers, mean_image=torch.full((PIXELS,), 0.4)).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def every_state(model: SigmoidBeliefNetwork, x: Tensor = BINARY_X) -> tuple[Tensor, Tensor]:
    """log q(z | x) and log p(x, z) [states] of x [1, pixels]."""
    widths = [layer.heads[0].out_features for layer in model.encoder]
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=sum(widths))), dtype=torch.float64)
    z = [part.unsqueeze(1) for part in states.split(widths, dim=1)]
    return model.log_posterior(x, z).squeeze(1), model.log_joint(x, z).squeeze(1)


def expected_target(model: SigmoidBeliefNetwork, k: int, target: Callable[[Tensor], Tensor]) -> Tensor:
    """E target(log w) over all draws of k samples: exact, and so is its gradient."""
    log_q, log_p = every_state(model)
    draws = torch.cartesian_prod(*[torch.arange(len(log_q))] * k).view(-1, k).T  # [k, draws]
    return (log_q[draws].sum(0).exp() * target((log_p - log_q)[draws])).sum()


class Gradient(NamedTuple):
    """Of θ and of φ, flat, ascending; [replicates, coordinates] where there are several."""

    generative: Tensor
    inference: Tensor


def gradient_of(model: LatentVariableModel, backward: Callable[[], None]) -> Gradient:
    """What `backward` leaves in the gradients of `model`."""
    model.zero_grad()
    backward()

    def flat(parameters: list[nn.Parameter]) -> Tensor:
        return -torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])

    return Gradient(flat(model.generative_parameters()), flat(model.inference_parameters()))


def stack(gradients: Iterator[Gradient]) -> Gradient:
    return Gradient(*(torch.stack(part) for part in zip(*gradients, strict=True)))


def estimates(
    objective: Objective, model: LatentVariableModel, x: Tensor, k: int, data: int = 400, replicates: int = 30
) -> Gradient:
    """The estimator at `data` copies of x, `replicates` times, each from a seed of its own."""

    def one(seed: int) -> Gradient:
        torch.manual_seed(seed)
        return gradient_of(model, lambda: objective(model, x.expand(data, -1), k).backward(model))

    return stack(one(seed) for seed in range(replicates))


def reference(
    target: Callable[[Tensor], Tensor | None],
    shape: Callable[[Tensor], Tensor],
    model: LatentVariableModel,
    x: Tensor,
    samples: int,
    data: int = 400,
    replicates: int = 30,
    noise: Noise = fresh_noise,
) -> Gradient:
    """Plain differentiation of `target` on the samples that `estimates` draws."""

    def one(seed: int) -> Gradient:
        torch.manual_seed(seed)
        log_w = model.log_weights(x.expand(data, -1), samples, noise)
        return gradient_of(model, (-target(shape(log_w)).mean()).backward)

    return stack(one(seed) for seed in range(replicates))


def differences(
    objective: Objective, model: LatentVariableModel, x: Tensor, k: int, parameters: list[nn.Parameter], seed: int = 0
) -> Tensor:
    """Ascending, flat: of the mean of the objective's target, by central differences of `parameters`, at one noise.

    For targets of weights that are not those of samples of q.
    """

    def value() -> Tensor:
        torch.manual_seed(seed)
        return objective.target(objective(model, x, k).log_w).mean().detach()

    found = []
    for parameter in parameters:
        entries = parameter.data.view(-1)
        for i, before in enumerate(entries.tolist()):
            entries[i] = before + 1e-5
            above = value()
            entries[i] = before - 1e-5
            found.append((above - value()) / 2e-5)
            entries[i] = before
    return torch.stack(found)


class Comparison(NamedTuple):
    """Of the means of paired estimates, coordinate by coordinate."""

    z: Tensor
    """difference of the means over its standard error [coordinates]"""
    critical: float
    """exceeded by max |z| once in 10,000 comparisons of equal means (Bonferroni)"""

    @property
    def agrees(self) -> bool:
        return self.z.abs().max().item() < self.critical


def compare(estimate: Tensor, reference: Tensor) -> Comparison:
    """Paired test of estimates against references, both [replicates, coordinates], or references exact."""
    difference = estimate - reference
    n = len(difference)
    rounding = 1e-9 * (1 + estimate.abs().mean(0))  # where both compute the same, there is no noise to compare with
    z = difference.mean(0) / ((difference.std(0) / n**0.5) + rounding)
    return Comparison(z, scipy.stats.t.isf(1e-4 / 2 / len(z), n - 1))
