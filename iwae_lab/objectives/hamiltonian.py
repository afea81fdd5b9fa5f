"""Hamiltonian moves between q and the posterior. Torch only.

In the noise ε of z = g(ε, x), all layers at once, the path from q to the posterior is π_β(ε) ∝ N(ε; 0, I) w(ε)^β. A
move rotates ε and its momentum v into each other, which leaves N(ε) N(v) invariant, between two half kicks of v by
β ∇log w(ε): a leapfrog step that solves the Gaussian part exactly (Shahbaba et al. 2014, arXiv 1106.5941). It preserves
volume and is reversed by reversing v; where q is the posterior, w is constant and the move exact at any angle.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from iwae_lab.models.base import LatentVariableModel, Noise
from iwae_lab.models.distributions import StandardNormal

__all__ = ["Chains", "Point"]


class Point(NamedTuple):
    """The positions of k chains per datum."""

    noise: list[Tensor]
    """ε [k, batch, units], one per layer"""
    log_w: Tensor
    """log w(ε) [k, batch]"""
    slopes: list[Tensor]
    """∂ log w / ∂ε, one per layer"""


@dataclass(frozen=True)
class Chains:
    """Chains for a batch x [batch, pixels]."""

    model: LatentVariableModel
    x: Tensor
    graph: bool
    """whether points can be differentiated in the parameters of the model and of the moves"""

    def start(self, k: int, noise: Noise) -> Point:
        """k samples of q for each datum. Raises `UserError` for a model whose latents are discrete."""
        with torch.enable_grad():
            draw = self.model.draw(self.x, k, noise=lambda *given: noise(*given).requires_grad_())
            return self._point(draw.noise, draw.log_w)

    def momentum(self, point: Point, noise: Noise) -> list[Tensor]:
        """Standard normal, one [k, batch, units] per layer of ε."""
        layers = ((StandardNormal(eps.new_zeros(eps.shape[-1])), eps) for eps in point.noise)
        levels = len(point.noise)
        return [noise(normal, levels + level, eps.shape) for level, (normal, eps) in enumerate(layers)]  # type: ignore[arg-type]

    def move(
        self, point: Point, momentum: list[Tensor], beta: Tensor | float, angle: Tensor
    ) -> tuple[Point, list[Tensor], Tensor]:
        """The next point and momentum of π_β, and what the kicks add to ½ ε² + ½ v² [k, batch]."""
        half = 0.5 * beta * angle
        momentum, first = _kick(momentum, point.slopes, half)
        turned = [torch.cos(angle) * eps + torch.sin(angle) * v for eps, v in zip(point.noise, momentum, strict=True)]
        momentum = [torch.cos(angle) * v - torch.sin(angle) * eps for eps, v in zip(point.noise, momentum, strict=True)]
        there = self._at(turned)
        momentum, second = _kick(momentum, there.slopes, half)
        return there, momentum, first + second

    def _at(self, noise: list[Tensor]) -> Point:
        if not self.graph:
            noise = [eps.detach().requires_grad_() for eps in noise]
        with torch.enable_grad():
            return self._point(
                noise, self.model.log_weights(self.x, len(noise[0]), lambda q, level, shape: noise[level])
            )

    def _point(self, noise: list[Tensor], log_w: Tensor) -> Point:
        slopes = list(torch.autograd.grad(log_w.sum(), noise, create_graph=self.graph))
        if self.graph:
            return Point(noise, log_w, slopes)
        return Point([eps.detach() for eps in noise], log_w.detach(), slopes)


def _kick(momentum: list[Tensor], slopes: list[Tensor], size: Tensor) -> tuple[list[Tensor], Tensor]:
    """The momentum after a kick, and what that adds to ½ v² [k, batch]."""
    kicks = [size * slope for slope in slopes]
    work = torch.stack([(a * (v + 0.5 * a)).sum(-1) for v, a in zip(momentum, kicks, strict=True)]).sum(0)
    return [v + a for v, a in zip(momentum, kicks, strict=True)], work
