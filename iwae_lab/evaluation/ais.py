"""log p(x) from both sides by annealed importance sampling (Neal 2001; Wu et al. 2017, arXiv 1611.04273).

The path leads from q(z | x) to the posterior: π_β(z) ∝ q(z | x)^(1−β) p(x, z)^β. From q rather than from the prior,
because q is the nearer end, and because it gives coordinates: in the noise ε of z = g(ε, x) the path is
π_β(ε) ∝ N(ε; 0, I) w(ε)^β with w the importance weight, all layers at once and at one scale, whatever the scales of
z. Where q is poor the bounds lie further apart, but they stay bounds.
"""

import itertools
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from iwae_lab.bounds import iwae_bound
from iwae_lab.errors import UserError
from iwae_lab.layers import Gaussian
from iwae_lab.model import LatentVariableModel

__all__ = ["Sandwich", "ais", "bidirectional", "reverse_ais"]

SEED = 400
LEAPFROG_STEPS = 5
PILOT_CHAINS = 4
ACCEPTANCE = 0.8  # aimed at by the pilot chains


@dataclass(frozen=True)
class Sandwich:
    """Stochastic bounds on log p(x) of images drawn from the model itself, float64 [images], nats."""

    images: Tensor
    """[images, pixels]"""
    lower: Tensor
    """E exp(lower) = p(x)"""
    upper: Tensor
    """E exp(−upper) = 1 / p(x)"""


def ais(
    model: LatentVariableModel,
    images: Tensor,
    *,
    chains: int = 16,
    temperatures: int = 100,
    seed: int = SEED,
    batch: int = 20,
) -> Tensor:
    """Estimate of log p(x) of each image [images, pixels], float64 [images], nats; in expectation a lower bound.

    It is logmeanexp over chains of log w, and E w = p(x) for any number of chains and temperatures.
    Raises `UserError` for a model whose latents are discrete.
    """
    generator = Generator(images.device).manual_seed(seed)
    bounds = []
    for x in images.split(batch):
        path = _Path.tuned(model, x, temperatures, generator)
        bounds.append(iwae_bound(path.forward(path.noise(chains))))
    return torch.cat(bounds)


def reverse_ais(
    model: LatentVariableModel,
    images: Tensor,
    z: list[Tensor],
    *,
    chains: int = 16,
    temperatures: int = 100,
    seed: int = SEED + 1,
    batch: int = 20,
) -> Tensor:
    """As `ais`, in expectation an upper bound: −logmeanexp over chains of log w_rev, and E w_rev = 1 / p(x).

    The chains of an image start from z, one [1, images, units] a layer, which must be an exact sample of the
    posterior (Grosse et al. 2015, arXiv 1511.02543): it is known where the image was drawn from the model.
    """
    generator = Generator(images.device).manual_seed(seed)
    bounds = []
    for x, *latents in zip(images.split(batch), *(layer.split(batch, dim=1) for layer in z), strict=True):
        path = _Path.tuned(model, x, temperatures, generator)
        start = path.noise_of(latents)
        bounds.append(-iwae_bound(path.backward(start.expand(chains, -1, -1))))
    return torch.cat(bounds)


def bidirectional(
    model: LatentVariableModel,
    n: int,
    *,
    chains: int = 16,
    temperatures: int = 100,
    seed: int = SEED,
    batch: int = 20,
) -> Sandwich:
    """Both bounds for n images drawn from the model (bidirectional Monte Carlo, Grosse et al. 2015)."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        x, z = model.sample_joint(n)
    lower = ais(model, x, chains=chains, temperatures=temperatures, seed=seed, batch=batch)
    upper = reverse_ais(model, x, z, chains=chains, temperatures=temperatures, seed=seed + 1, batch=batch)
    return Sandwich(x, lower, upper)


@dataclass(frozen=True)
class _State:
    """Of chains [chains, batch, units of all layers]."""

    noise: Tensor
    log_w: Tensor
    """[chains, batch]"""
    slope: Tensor
    """∂ log w / ∂ noise"""


@dataclass(frozen=True)
class _Path:
    """From q to the posterior of a batch x [batch, pixels], with the moves made along it."""

    model: LatentVariableModel
    x: Tensor
    widths: list[int]
    betas: list[float]
    """from 0 to 1"""
    steps: list[Tensor]
    """of the leapfrog integrator at each β, [batch, 1]"""
    generator: Generator

    @classmethod
    def tuned(cls, model: LatentVariableModel, x: Tensor, temperatures: int, generator: Generator) -> Self:
        """With step sizes from pilot chains: steps that adapt to the very chains they move would bias w."""
        if not model.reparameterized:
            raise UserError(f"{type(model).__name__} has discrete latents: annealing moves only continuous ones")
        x = x.to(next(model.parameters()).dtype)
        with torch.no_grad():
            widths = [z.shape[-1] for z in model.draw(x[:1], 1, noise=lambda q, _, shape: q.noise(shape, generator)).z]
        # closer to each other at both ends (Wu et al. 2017, with their δ = 4)
        sigmoid = torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64).sigmoid()
        betas = ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).tolist()
        path = cls(model, x, widths, betas, [], generator)
        state = path._at(path.noise(PILOT_CHAINS))
        step = x.new_full((len(x), 1), 0.3)
        for beta in betas:
            path.steps.append(step)
            state, accepted = path._move(state, beta, step)
            step = (step * torch.exp(0.3 * (accepted.to(x.dtype).mean(0).unsqueeze(-1) - ACCEPTANCE))).clamp(max=1.0)
        return path

    def noise(self, chains: int) -> Tensor:
        """Of a sample of q for each chain."""
        return self._normal(chains, len(self.x), sum(self.widths))

    def noise_of(self, z: list[Tensor]) -> Tensor:
        """That z, one [1, batch, units] a layer, comes from."""
        with torch.no_grad():
            layers, _ = self.model.conditionals(self.x, z)
        gaussians = ((q, here) for q, here in zip(layers, z, strict=True) if isinstance(q, Gaussian))
        return torch.cat([(here - q.mean) * torch.exp(-q.log_std) for q, here in gaussians], dim=-1)

    def forward(self, noise: Tensor) -> Tensor:
        """log w [chains, batch] of chains from q."""
        return self._anneal(noise, list(zip(self.betas, self.steps, strict=True)))

    def backward(self, noise: Tensor) -> Tensor:
        """log w_rev [chains, batch] of chains from the posterior."""
        return self._anneal(noise, list(zip(self.betas, self.steps, strict=True))[::-1])

    def _anneal(self, noise: Tensor, schedule: list[tuple[float, Tensor]]) -> Tensor:
        state = self._at(noise)
        log_w = torch.zeros_like(state.log_w, dtype=torch.float64)
        for (before, _), (beta, step) in itertools.pairwise(schedule):
            log_w += (beta - before) * state.log_w.double()
            if beta != schedule[-1][0]:  # nothing is weighed after the last
                state, _ = self._move(state, beta, step)
        return log_w

    def _move(self, state: _State, beta: float, step: Tensor) -> tuple[_State, Tensor]:
        """A Hamiltonian step that leaves π_β as it is, and which chains [chains, batch] took it."""

        def force(at: _State) -> Tensor:
            return beta * at.slope - at.noise

        def energy(at: _State, momentum: Tensor) -> Tensor:
            return 0.5 * (at.noise.square() + momentum.square()).sum(-1) - beta * at.log_w

        start = self._normal(*state.noise.shape)
        momentum, proposal = start, state
        for _ in range(LEAPFROG_STEPS):
            momentum = momentum + 0.5 * step * force(proposal)
            proposal = self._at(proposal.noise + step * momentum)
            momentum = momentum + 0.5 * step * force(proposal)
        gain = energy(state, start) - energy(proposal, momentum)
        accepted = self._uniform(gain.shape).log() < gain  # not if gain is NaN

        taken = accepted.unsqueeze(-1)
        chosen = _State(
            torch.where(taken, proposal.noise, state.noise),
            torch.where(accepted, proposal.log_w, state.log_w),
            torch.where(taken, proposal.slope, state.slope),
        )
        return chosen, accepted

    def _at(self, noise: Tensor) -> _State:
        with torch.enable_grad():
            noise = noise.detach().requires_grad_()
            layers = noise.split(self.widths, dim=-1)
            log_w = self.model.draw(self.x, len(noise), noise=lambda q, level, shape: layers[level]).log_w
            (slope,) = torch.autograd.grad(log_w.sum(), noise)
        return _State(noise.detach(), log_w.detach(), slope)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=self.x.dtype, device=self.x.device)

    def _uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=self.x.dtype, device=self.x.device)
