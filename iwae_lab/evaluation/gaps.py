"""What the encoder costs (Cremer, Li & Duvenaud 2018, arXiv 1801.03558), in nats of the ELBO:

log p(x) − ELBO(q)  =  [log p(x) − ELBO(q*)]  +  [ELBO(q*) − ELBO(q)]
                          approximation gap         amortization gap

q is the encoder's posterior, and q* the best one of its family for the image alone. In the first layer the family
is all diagonal Gaussians. Above it, it is the network's q(z_l | z_{l-1}) with mean and log σ shifted by the same
amounts at all z_{l-1}.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from iwae_lab.bounds import StreamingBounds
from iwae_lab.console.errors import UserError, require
from iwae_lab.evaluation import keys
from iwae_lab.evaluation.images import require_images
from iwae_lab.evaluation.kept import Kept, Part
from iwae_lab.evaluation.likelihood import standard_error
from iwae_lab.evaluation.noise import BLOCK, image_noise
from iwae_lab.models.base import LatentVariableModel, Noise
from iwae_lab.models.distributions import Bernoulli, Distribution

__all__ = ["Gaps", "encoder_gaps"]

SEED = 600
ROWS, CUDA_ROWS = 25_000, 100_000  # weighed at a time
ELBO_K = 1000  # samples of each reported ELBO, the same noise for q and q*


@dataclass(frozen=True)
class Gaps:
    """Gaps per image, float64 [images], nats."""

    log_p: Tensor
    """as given"""
    elbo: Tensor
    """ELBO of the encoder's q"""
    best_elbo: Tensor
    """ELBO of q*, less what the optimisation missed, so the amortization gap may be too small"""

    @property
    def approximation(self) -> Tensor:
        """log p(x) − ELBO(q*): what the family costs."""
        return self.log_p - self.best_elbo

    @property
    def amortization(self) -> Tensor:
        """ELBO(q*) − ELBO(q): what one network for all images costs."""
        return self.best_elbo - self.elbo

    def metrics(self) -> dict[str, Any]:
        """Metrics for the record: means over images and their standard errors, nats."""
        return {
            keys.GAPS_IMAGES: len(self.elbo),
            keys.GAPS_APPROXIMATION: self.approximation.mean().item(),
            keys.GAPS_APPROXIMATION_SE: standard_error(self.approximation),
            keys.GAPS_AMORTIZATION: self.amortization.mean().item(),
            keys.GAPS_AMORTIZATION_SE: standard_error(self.amortization),
        }

    def per_image(self) -> dict[str, Tensor]:
        """Both gaps by name, float64 [images] on the CPU."""
        return {"approximation_gap": self.approximation.cpu(), "amortization_gap": self.amortization.cpu()}


def encoder_gaps(
    model: LatentVariableModel,
    images: Tensor,
    log_p: Tensor,
    *,
    steps: int = 1000,
    samples: int = 10,
    learning_rate: float = 0.02,
    seed: int = SEED,
    rows: int | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    kept: Kept | None = None,
) -> Gaps:
    """Gaps of images [images, pixels] whose log p(x) [images] is known from elsewhere, such as `ais`.

    q* starts at q and ascends the ELBO of `samples` samples per step by Adam, at a learning rate that falls linearly to
    0. kept: what an interrupted call left; batches that were done are not optimised again. Leaves the model and torch's
    global generator as they are. Raises `UserError` for discrete latents, images that are not binary and other shapes.
    """
    require_images(model, images)
    require("log_p", list(log_p.shape), log_p.shape == images.shape[:1], f"shape [{len(images)}], one per image")
    dtype = next(model.parameters()).dtype
    posteriors = model.posteriors(images[:1].to(dtype), 1, image_noise(0, [0], images.device))
    if any(isinstance(q, Bernoulli) for q in posteriors):
        raise UserError(f"{type(model).__name__} has discrete latents: q* can't be found by reparameterised gradients")
    batch = max(1, (rows or (CUDA_ROWS if images.is_cuda else ROWS)) // BLOCK)
    generator = Generator(images.device).manual_seed(seed)
    part = Part(kept, model, images, "gaps", steps, samples, learning_rate, seed, batch)
    results, state = part.restored() or (log_p.new_empty(2, 0, dtype=torch.float64), generator.get_state())
    generator.set_state(state)
    for start in range(results.shape[1], len(images), batch):
        x = images[start : start + batch].to(dtype)
        local = _LocalPosterior(model, x)
        shifts = [shift for layer in local.shifted for shift in layer.shifts]
        optimizer = torch.optim.Adam(shifts, learning_rate)
        for step in range(steps):
            with torch.enable_grad():
                drawn = local.draw(x, samples, "path", lambda q, _, shape: q.noise(shape, generator))
                gradients = torch.autograd.grad(-drawn.log_w.mean(0).sum(), shifts)
            for shift, gradient in zip(shifts, gradients, strict=True):
                shift.grad = gradient
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            optimizer.step()
            progress((start + len(x) * (step + 1) / steps) / len(images))
        indices = range(start, start + len(x))
        elbos = [_elbo(m, x, image_noise(seed, indices, x.device)) for m in (model, local)]
        results = torch.cat([results, torch.stack(elbos)], dim=1)
        part.keep(results, generator.get_state())
    return Gaps(log_p.double(), *results)


@torch.no_grad()
def _elbo(model: LatentVariableModel, x: Tensor, noise: Noise) -> Tensor:
    """ELBO from `ELBO_K` samples of each x [batch, pixels]; float64 [batch]."""
    bounds = StreamingBounds()
    while bounds.k < ELBO_K:
        bounds.add(model.log_weights(x, BLOCK, noise))
    return bounds.elbo


class _LocalPosterior(LatentVariableModel):
    """The model with every conditional of q shifted for each x [batch, pixels]; shares its parameters."""

    def __init__(self, model: LatentVariableModel, x: Tensor) -> None:
        super().__init__()
        self.whole = model
        self.decoder = model.decoder
        posteriors = model.posteriors(x[:1], 1, image_noise(0, [0], x.device))
        self.shifted = [
            _Shifted(layer, [p.new_zeros(len(x), p.shape[-1]) for p in q])
            for layer, q in zip(model.encoder, posteriors, strict=True)
        ]
        self.encoder = nn.ModuleList(self.shifted)

    def prior(self) -> Distribution:
        return self.whole.prior()


class _Shifted(nn.Module):
    """A conditional whose parameters are shifted by [batch, units] each."""

    def __init__(self, layer: nn.Module, shifts: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.shifts = layer, nn.ParameterList(map(nn.Parameter, shifts))

    def forward(self, h: Tensor) -> Distribution:
        """h [batch, inputs] or [k·batch, inputs], sample by sample -> its distribution."""
        q = self.layer(h)
        k = len(h) // len(self.shifts[0])
        return type(q)(*(p + shift.repeat(k, 1) for p, shift in zip(q, self.shifts, strict=True)))
