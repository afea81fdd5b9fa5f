"""Models whose log p(x), posterior and expected gradients are known, and tests of estimators against them."""

import copy
import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import scipy.stats
import torch
from torch import Tensor, nn
from torch.func import functional_call

from iwae_lab.models.base import LatentVariableModel, Noise, fresh_noise
from iwae_lab.models.distributions import Bernoulli, Gaussian, StandardNormal
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


class OfEachDatum(nn.Module):
    """A layer h [k · data, n_in] -> distribution with parameters for each datum, at first those of `layer`."""

    def __init__(self, layer: nn.Module, data: int) -> None:
        super().__init__()
        self.function = functools.partial(functional_call, layer)
        self.names = [name for name, _ in layer.named_parameters()]
        self.values = nn.ParameterList(_copies(p, data) for p in layer.parameters())

    def forward(self, h: Tensor) -> Gaussian | Bernoulli:
        rows = h.unflatten(0, (-1, len(self.values[0])))
        parameters = dict(zip(self.names, self.values, strict=True))
        made = torch.vmap(self.function, in_dims=(0, (1,)), out_dims=1)(parameters, (rows,))
        return type(made)(*(parameter.flatten(0, 1) for parameter in made))


def of_each_datum(model: LatentVariableModel, data: int) -> LatentVariableModel:
    """A copy with parameters [data, …], so that one backward pass gives the gradients of all of `data` data."""
    made = copy.deepcopy(model)
    made.encoder = nn.ModuleList(OfEachDatum(layer, data) for layer in model.encoder)
    made.decoder = nn.ModuleList(OfEachDatum(layer, data) for layer in model.decoder)
    for name, p in model.named_parameters():
        if "." not in name:
            setattr(made, name, _copies(p, data))
    return made


def _copies(p: Tensor, data: int) -> nn.Parameter:
    return nn.Parameter(p.detach().expand(data, *p.shape).clone())


class Gradient(NamedTuple):
    """Of θ and of φ, flat, ascending; [replicates, coordinates] where there are several."""

    generative: Tensor
    inference: Tensor


def gradient_of(model: LatentVariableModel, backward: Callable[[], None], data: int | None = None) -> Gradient:
    """What `backward` leaves in the gradients of `model`; with `data`, one `of_each_datum`, [data, coordinates]."""
    model.zero_grad()
    backward()

    def flat(parameters: list[nn.Parameter]) -> Tensor:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return -torch.cat([g.flatten(0 if data is None else 1) for g in gradients], dim=-1)

    return Gradient(flat(model.generative_parameters()), flat(model.inference_parameters()))


def replicate(
    backward: Callable[[LatentVariableModel, Tensor], None],
    model: LatentVariableModel,
    x: Tensor,
    data: int,
    replicates: int | None = None,
    in_one_call: bool = True,
) -> Gradient:
    """What `backward(model, x)` leaves at `data` copies of x, `replicates` times.

    In one call of all copies, so the loss must be a mean over data that depend on nothing in common; or in as many
    calls as there are replicates, each from a seed of its own. By default there are 100 replicates in one call, or in
    many a third as many of three times the data.
    """
    if replicates is None:
        data, replicates = (data, 100) if in_one_call else (3 * data, 33)
    if in_one_call:
        torch.manual_seed(0)
        n = replicates * data
        each = of_each_datum(model, n)
        found = gradient_of(each, lambda: backward(each, x.expand(n, -1)), n)
        return Gradient(*(n * part.unflatten(0, (replicates, data)).mean(1) for part in found))

    def one(seed: int) -> Gradient:
        torch.manual_seed(seed)
        return gradient_of(model, lambda: backward(model, x.expand(data, -1)))

    return Gradient(*(torch.stack(part) for part in zip(*map(one, range(replicates)), strict=True)))


def estimates(
    objective: Objective,
    model: LatentVariableModel,
    x: Tensor,
    k: int,
    data: int = 30,
    replicates: int | None = None,
    in_one_call: bool | None = None,
) -> Gradient:
    """The estimator at `data` copies of x, `replicates` times: in one call where the objective is `compilable`, hence
    draws nothing that decides shapes and remembers nothing."""
    in_one_call = objective.compilable if in_one_call is None else in_one_call
    return replicate(lambda m, x: objective(m, x, k).backward(m), model, x, data, replicates, in_one_call)


def reference(
    target: Callable[[Tensor], Tensor | None],
    shape: Callable[[Tensor], Tensor],
    model: LatentVariableModel,
    x: Tensor,
    samples: int,
    data: int = 30,
    replicates: int | None = None,
    noise: Noise = fresh_noise,
    in_one_call: bool = True,
) -> Gradient:
    """Plain differentiation of `target` on the samples that `estimates` draws in one call or in many."""

    def backward(model: LatentVariableModel, x: Tensor) -> None:
        (-target(shape(model.log_weights(x, samples, noise))).mean()).backward()

    return replicate(backward, model, x, data, replicates, in_one_call)


def slopes(
    objective: Objective, model: LatentVariableModel, x: Tensor, k: int, moves: list[tuple[nn.Parameter, Tensor]]
) -> Tensor:
    """How fast the mean of the objective's target rises where each parameter goes along its direction, at one noise.

    By central differences, for targets of weights that are not those of samples of q.
    """

    def value(step: float) -> Tensor:
        for parameter, direction in moves:
            parameter.data += step * direction
        torch.manual_seed(0)
        found = objective.target(objective(model, x, k).log_w).mean().detach()
        for parameter, direction in moves:
            parameter.data -= step * direction
        return found

    return (value(1e-5) - value(-1e-5)) / 2e-5


class Comparison(NamedTuple):
    """Of the means of paired estimates, coordinate by coordinate."""

    z: Tensor
    """difference of the means over its standard error [coordinates]"""
    critical: float
    """exceeded by max |z| once in 10,000 comparisons of equal means (Bonferroni)"""

    @property
    def agrees(self) -> bool:
        assert self.z.isfinite().all()
        return self.z.abs().max().item() < self.critical


def compare(estimate: Tensor, reference: Tensor) -> Comparison:
    """Paired test of estimates against references, both [replicates, coordinates], or references exact."""
    difference = estimate - reference
    n = len(difference)
    rounding = 1e-9 * (1 + estimate.abs().mean(0))  # where both compute the same, there is no noise to compare with
    z = difference.mean(0) / ((difference.std(0) / n**0.5) + rounding)
    return Comparison(z, scipy.stats.t.isf(1e-4 / 2 / len(z), n - 1))
