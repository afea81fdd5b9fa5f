"""log p(x) from both sides by annealed importance sampling (Neal 2001; Wu et al. 2017, arXiv 1611.04273).

The path leads from an initial distribution to the posterior, and is walked in the noise ε that samples are made of:
π_β(ε) ∝ N(ε; 0, I) w(ε)^β, all layers at once and at one scale, whatever the scales of z.

start="q"      z = g(ε, x) is a sample of q(z | x) and w = p(x, z) / q(z | x) its importance weight, so that π_β(z) ∝
               q(z | x)^(1−β) p(x, z)^β. The nearer start: its bounds are tighter at the same cost.
start="prior"  z = g(ε) is a sample of p(z) and w = p(x | z_1), so that π_β(z) ∝ p(z) p(x | z_1)^β, as in the papers.
               It does not depend on the encoder.

Where the start is poor the bounds lie further apart, but they stay bounds.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Generator, Tensor

from iwae_lab.bounds import ess, iwae_bound
from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.annealing import STARTS, Annealing
from iwae_lab.evaluation.images import require_images
from iwae_lab.evaluation.kept import Kept, Part
from iwae_lab.evaluation.likelihood import standard_error
from iwae_lab.models.base import LatentVariableModel, conditional
from iwae_lab.models.distributions import Gaussian

__all__ = ["Annealed", "Annealing", "Sandwich", "ais", "bidirectional", "estimated_seconds", "reverse_ais"]

SEED = 400
ROWS, CUDA_ROWS = 2000, 50_000  # chains moved at a time
PILOT_CHAINS = 4
ACCEPTANCE = 0.8  # the target of the pilot chains
TIMED_MOVES = 3

Progress = Callable[[float], None]
Keep = Callable[..., None]


@dataclass(frozen=True)
class Annealed:
    """A stochastic bound on log p(x) per image, float64 [images]."""

    bound: Tensor
    """nats"""
    ess: Tensor
    """effective chains, from 1 to their number; a bound that rests on one is loose and noisy"""
    acceptance: Tensor
    """share of Hamiltonian moves that were accepted; NaN with one temperature, which needs no move"""

    @property
    def mean(self) -> float:
        """Mean bound over images, nats."""
        return self.bound.mean().item()

    @property
    def se(self) -> float:
        """Standard error of `mean` over images."""
        return standard_error(self.bound)


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of images drawn from the model itself, from below and above."""

    images: Tensor
    """[images, pixels]"""
    lower: Annealed
    """E exp(bound) = p(x)"""
    upper: Annealed
    """E exp(−bound) = 1 / p(x)"""

    @property
    def gap(self) -> Tensor:
        """How far apart they are, float64 [images], nats; in expectation it bounds the error of both."""
        return self.upper.bound - self.lower.bound


def ais(
    model: LatentVariableModel,
    images: Tensor,
    how: Annealing | None = None,
    *,
    seed: int = SEED,
    rows: int | None = None,
    progress: Progress = lambda fraction: None,
    kept: Kept | None = None,
) -> Annealed:
    """Lower bounds on log p(x) of images [images, pixels], in expectation.

    Each is logmeanexp over chains of log w, and E w = p(x) for any number of chains and temperatures. At most `rows`
    chains are moved at a time (by default 2,000, on CUDA 50,000), or those of one image. kept: what an interrupted call
    left; its chains continue from there to the same result.
    Raises `UserError` for a model whose latents are discrete.
    """
    return _annealed(model, images, None, how or Annealing(), seed, rows, progress, kept)


def reverse_ais(
    model: LatentVariableModel,
    images: Tensor,
    z: list[Tensor],
    how: Annealing | None = None,
    *,
    seed: int = SEED + 1,
    rows: int | None = None,
    progress: Progress = lambda fraction: None,
    kept: Kept | None = None,
) -> Annealed:
    """Like `ais`, but upper bounds in expectation: −logmeanexp over chains of log w_rev, and E w_rev = 1 / p(x).

    The chains of an image start from z, one [1, images, units] per layer, which must be an exact sample of the
    posterior (Grosse et al. 2015, arXiv 1511.02543), as is known for images drawn from the model.
    """
    reverse = _annealed(model, images, z, how or Annealing(), seed, rows, progress, kept)
    return replace(reverse, bound=-reverse.bound)


def bidirectional(
    model: LatentVariableModel,
    n: int,
    how: Annealing | None = None,
    *,
    seed: int = SEED,
    rows: int | None = None,
    progress: Progress = lambda fraction: None,
    kept: Kept | None = None,
) -> Sandwich:
    """Both bounds for n images drawn from the model (bidirectional Monte Carlo, Grosse et al. 2015)."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed + 2)
        x, z = model.sample_joint(n)
    lower = ais(model, x, how, seed=seed, rows=rows, progress=lambda done: progress(done / 2), kept=kept)
    upper = reverse_ais(
        model, x, z, how, seed=seed + 1, rows=rows, progress=lambda done: progress((1 + done) / 2), kept=kept
    )
    return Sandwich(x, lower, upper)


def estimated_seconds(
    model: LatentVariableModel,
    images: Tensor,
    how: Annealing | None = None,
    *,
    rows: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """How long `ais` will take, from a few moves of its first batch; `bidirectional` takes twice that."""
    how = how or Annealing()
    x = images[: _batch(images, how, rows)]
    path = _Path.of(
        model, x, how, Generator(images.device).manual_seed(SEED), _Work(how, len(x), lambda fraction: None)
    )
    state = path.at(path.noise(how.chains))
    step = x.new_full((len(x), 1), 0.1, dtype=state.noise.dtype)
    marks = []
    for _ in range(1 + TIMED_MOVES):  # the first is slower than the others
        state, _ = path.move(state, 0.5, step)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        marks.append(clock())
    per_move = (marks[-1] - marks[0]) / TIMED_MOVES
    return per_move * how.temperatures * (1 + PILOT_CHAINS / how.chains) * len(images) / len(x)


def _annealed(
    model: LatentVariableModel,
    images: Tensor,
    exact: list[Tensor] | None,
    how: Annealing,
    seed: int,
    rows: int | None,
    progress: Progress,
    kept: Kept | None,
) -> Annealed:
    """logmeanexp of log w of chains from the start; given exact samples of the posterior, of log w_rev from there."""
    require_images(model, images)
    batch = _batch(images, how, rows)
    generator = Generator(images.device).manual_seed(seed)
    work = _Work(how, len(images), progress)
    results = torch.empty(3, 0, dtype=torch.float64, device=images.device)
    part = Part(kept, model, images, "annealing", how, seed, batch, *(exact or []))
    results, state, work.done, *under_way = part.restored() or (results, generator.get_state(), 0)
    generator.set_state(state)
    work.add(0)
    chains: list[Any]

    def keep(*chains: Any) -> None:
        part.keep(results, generator.get_state(), work.done, *chains)

    for start in range(results.shape[1], len(images), batch):
        path = _Path.of(model, images[start : start + batch], how, generator, work)
        if under_way:
            generator.set_state(state)
        if len(under_way) > 2:  # kept by `anneal`; what `tuned` keeps is shorter
            steps, *chains = under_way
            path = replace(path, steps=steps)
        else:
            path = path.tuned(keep, *under_way)
            if exact is None:
                chains = [path.noise(how.chains)]
            else:
                noise = path.noise_of([z[:, start : start + batch] for z in exact])
                chains = [noise.expand(how.chains, -1, -1)]
        under_way = []
        log_w, acceptance = path.anneal(keep, exact is not None, *chains)
        results = torch.cat([results, torch.stack([iwae_bound(log_w), ess(log_w), acceptance])], dim=1)
        keep()
    return Annealed(*results)


def _batch(images: Tensor, how: Annealing, rows: int | None) -> int:
    return max(1, (rows or (CUDA_ROWS if images.is_cuda else ROWS)) // how.chains)


class _Work:
    """Counts the moves of all chains."""

    def __init__(self, how: Annealing, images: int, progress: Progress) -> None:
        self.total = images * (PILOT_CHAINS * how.temperatures + how.chains * (how.temperatures - 1))
        self.done = 0
        self.progress = progress

    def add(self, moves: int) -> None:
        self.done += moves
        self.progress(self.done / self.total)


@dataclass(frozen=True)
class _State:
    """Chains at one noise [chains, batch, units of all layers]."""

    noise: Tensor
    log_w: Tensor
    """[chains, batch]"""
    slope: Tensor
    """∂ log w / ∂ noise"""


@dataclass(frozen=True)
class _Path:
    """The path to the posterior of a batch x [batch, pixels], and the moves along it."""

    model: LatentVariableModel
    x: Tensor
    how: Annealing
    widths: list[int]
    betas: list[float]
    """from 0 to 1"""
    steps: Tensor
    """leapfrog step size at each β, [β, batch, 1]"""
    generator: Generator
    work: _Work

    @classmethod
    def of(cls, model: LatentVariableModel, x: Tensor, how: Annealing, generator: Generator, work: _Work) -> Self:
        """Raises `UserError` for a model whose latents are discrete."""
        x = x.to(next(model.parameters()).dtype)
        with torch.no_grad():
            z = model.draw(x[:1], 1, noise=lambda q, _, shape: q.noise(shape, generator)).z
            layers, _ = model.conditionals(x[:1], z)
        if not all(isinstance(q, Gaussian) for q in layers):
            raise UserError(f"{type(model).__name__} has discrete latents: annealing moves only continuous ones")
        widths = [here.shape[-1] for here in z]
        return cls(model, x, how, widths, how.betas(), x.new_empty(0), generator, work)

    def tuned(self, keep: Keep, steps: Tensor | None = None, noise: Tensor | None = None) -> Self:
        """The path with step sizes from pilot chains: tuning them on the chains they move would bias w.

        steps, noise: the step sizes [β, batch, 1] and pilot chains that were kept last, if any.
        """
        state = self.at(self.noise(PILOT_CHAINS) if noise is None else noise)
        known = self.x.new_full((1, len(self.x), 1), 0.3) if steps is None else steps
        steps = self.x.new_empty(len(self.betas), len(self.x), 1)
        steps[: len(known)] = known
        for i in range(len(known) - 1, self.how.temperatures):  # no weight follows a move at the last β
            state, accepted = self.move(state, self.betas[i], steps[i])
            rate = accepted.to(steps).mean(0).unsqueeze(-1)
            steps[i + 1] = (steps[i] * torch.exp(0.3 * (rate - ACCEPTANCE))).clamp(max=1.0)
            keep(steps[: i + 2], state.noise)
        return replace(self, steps=steps)

    def noise(self, chains: int) -> Tensor:
        """Noise of a start sample for each chain."""
        return self._normal(chains, len(self.x), sum(self.widths))

    def noise_of(self, z: list[Tensor]) -> Tensor:
        """Inverts the sampler: the noise that produced z, one [1, batch, units] per layer."""
        with torch.no_grad():
            layers = self.model.conditionals(self.x, z)[STARTS.index(self.how.start)]
            noise = [layer.noise_of(here) for layer, here in zip(layers, z, strict=True)]  # type: ignore[union-attr]
            return torch.cat(noise, dim=-1)

    def anneal(
        self,
        keep: Keep,
        backwards: bool,
        noise: Tensor,
        log_w: Tensor | None = None,
        accepted: Tensor | None = None,
        done: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """log w of chains from the start, or log w_rev of chains from the posterior; and the acceptance rate.

        noise [chains, batch, units] -> float64 [chains, batch], [batch]. log_w, accepted: of chains kept by an
        interrupted call after `done` temperatures.
        """
        schedule = list(zip(self.betas, self.steps, strict=True))[:: -1 if backwards else 1]
        state = self.at(noise)
        log_w = torch.zeros_like(state.log_w, dtype=torch.float64) if log_w is None else log_w
        accepted = torch.zeros_like(log_w) if accepted is None else accepted
        for i in range(done, self.how.temperatures):
            (before, _), (beta, step) = schedule[i : i + 2]
            log_w = log_w + (beta - before) * state.log_w.double()
            if i + 1 < self.how.temperatures:
                state, taken = self.move(state, beta, step)
                accepted = accepted + taken
            keep(self.steps, state.noise, log_w, accepted, i + 1)
        moves = self.how.temperatures - 1
        return log_w, accepted.mean(0) / (moves or math.nan)

    def move(self, state: _State, beta: float, step: Tensor) -> tuple[_State, Tensor]:
        """A Hamiltonian step that leaves π_β invariant, and which chains [chains, batch] accepted it."""

        def force(at: _State) -> Tensor:
            return beta * at.slope - at.noise

        def energy(at: _State, momentum: Tensor) -> Tensor:
            return 0.5 * (at.noise.square() + momentum.square()).sum(-1) - beta * at.log_w

        start = self._normal(*state.noise.shape)
        momentum, proposal = start, state
        for _ in range(self.how.leapfrog_steps):
            momentum = momentum + 0.5 * step * force(proposal)
            proposal = self.at(proposal.noise + step * momentum)
            momentum = momentum + 0.5 * step * force(proposal)
        gain = energy(state, start) - energy(proposal, momentum)
        accepted = self._uniform(gain.shape).log() < gain  # a NaN gain is rejected

        taken = accepted.unsqueeze(-1)
        chosen = _State(
            torch.where(taken, proposal.noise, state.noise),
            torch.where(accepted, proposal.log_w, state.log_w),
            torch.where(taken, proposal.slope, state.slope),
        )
        self.work.add(accepted.numel())
        return chosen, accepted

    def at(self, noise: Tensor) -> _State:
        """The state of chains at that noise."""
        with torch.enable_grad():
            noise = noise.detach().requires_grad_()
            layers = list(noise.split(self.widths, dim=-1))
            log_w = self._weight_from_q(layers) if self.how.start == "q" else self._weight_from_prior(layers)
            (slope,) = torch.autograd.grad(log_w.sum(), noise)
        return _State(noise.detach(), log_w.detach(), slope)

    def _weight_from_q(self, noise: list[Tensor]) -> Tensor:
        return self.model.draw(self.x, len(noise[0]), noise=lambda q, level, shape: noise[level]).log_w

    def _weight_from_prior(self, noise: list[Tensor]) -> Tensor:
        *below, top = noise
        z = self.model.prior().sample(top)
        for layer, here in zip(reversed(self.model.decoder[1:]), reversed(below), strict=True):
            z = conditional(layer, z).sample(here)
        return conditional(self.model.decoder[0], z).log_prob(self.x)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=self.x.dtype, device=self.x.device)

    def _uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=self.x.dtype, device=self.x.device)
