"""Bounds on log p(x) from many samples, in memory that does not grow with their number."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iwae_lab.bounds import StreamingBounds
from iwae_lab.compiling import Compiled
from iwae_lab.evaluation.noise import BLOCK, image_noise
from iwae_lab.model import LatentVariableModel
from iwae_lab.precision import autocast

__all__ = ["Likelihood", "likelihood"]

ROWS, CUDA_ROWS = 2000, 100_000  # weighed at a time
SEED = 5000  # of the samples of every reported NLL; training draws from elsewhere


@dataclass(frozen=True)
class Likelihood:
    """Bounds on log p(x) per image, float64 [images], nats, and how many samples they rest on."""

    bound: Tensor
    """L̂_k; the NLL is its negative"""
    elbo: Tensor
    """mean log-weight of the same samples"""
    ess: Tensor
    """of the k, from 1 to k"""
    k: int

    @property
    def nll(self) -> float:
        """−L̂_k, averaged over images."""
        return -self.bound.mean().item()

    @property
    def nll_se(self) -> float:
        """Standard error of `nll` over images."""
        return (self.bound.std() / math.sqrt(len(self.bound))).item()


@torch.no_grad()
def likelihood(
    model: LatentVariableModel,
    images: Tensor,
    k: int,
    *,
    seed: int = SEED,
    rows: int | None = None,
    compile: str = "false",
    precision: str = "32",
    progress: Callable[[int], None] = lambda images_done: None,
) -> Likelihood:
    """L̂_k and ELBO of binary images [images, pixels] from k samples each (Burda et al. 2016, eq. 8).

    At most `rows` image-sample pairs are weighed at a time (by default 2,000, on CUDA 100,000), or one image's `BLOCK`.
    The result depends on `seed`, on the kind of device (see `image_noise`) and, but for rounding, on neither `rows` nor
    `compile` (see `Compiled`). Matrix products are in the precision of the weights, or in bf16 with precision="bf16";
    log-weights are in the former always.
    """
    batch = max(1, (rows or (CUDA_ROWS if images.is_cuda else ROWS)) // BLOCK)
    dtype = next(model.parameters()).dtype

    def log_weights(x: Tensor, *noise: Tensor) -> Tensor:
        with autocast(x.device, precision):
            return model.log_weights(x, len(noise[0]), lambda q, level, shape: noise[level])

    weigh = Compiled(log_weights, compile)
    calls_left = math.ceil(len(images) / batch) * math.ceil(k / BLOCK)
    layers = model.posteriors(images[:1].to(dtype), 1, image_noise(seed, [0], images.device))
    # one tensor, not a small one a batch: each would keep a large freed block from being used again
    found = torch.empty(3, len(images), dtype=torch.float64, device=images.device)
    for start in range(0, len(images), batch):
        x = images[start : start + batch].to(dtype)
        noise = image_noise(seed, range(start, start + len(x)), x.device)
        bounds = StreamingBounds()
        while bounds.k < k:
            samples = min(BLOCK, k - bounds.k)
            drawn = [noise(q, level, (samples, len(x), q[0].shape[-1])) for level, q in enumerate(layers)]
            bounds.add(weigh(x, *drawn, calls_left=calls_left))
            calls_left -= 1
        found[:, start : start + len(x)] = torch.stack([bounds.iwae_bound, bounds.elbo, bounds.ess])
        progress(start + len(x))
    bound, mean, ess = found
    return Likelihood(bound, mean, ess, k)
