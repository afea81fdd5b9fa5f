"""Bounds on log p(x) from many samples, in memory that does not grow with their number."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from iwae_lab.bounds import StreamingBounds
from iwae_lab.console.errors import require, require_one_of
from iwae_lab.evaluation.images import require_images
from iwae_lab.evaluation.kept import Kept, Part
from iwae_lab.evaluation.noise import BLOCK, image_noise
from iwae_lab.evaluation.pareto import FEWEST, UNRELIABLE, LargestWeights, pareto_k
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.compiling import Compiled
from iwae_lab.models.precision import PRECISIONS, autocast

__all__ = ["KS", "Likelihood", "likelihood", "standard_error"]

KS = (1, 5, 50, 500, 5000)  # the curve that shows how tight the bound is
ROWS, CUDA_ROWS = 2000, 100_000  # image-sample pairs per batch
SEED = 5000  # of every reported NLL; training draws from elsewhere


@dataclass(frozen=True)
class Likelihood:
    """Bounds on log p(x) per image, all from the same samples; float64 [images], nats."""

    bounds: dict[int, Tensor]
    """L̂_n of the first n samples, for the n of `KS` below k and for k itself, ascending"""
    elbo: Tensor
    """mean log-weight of all k samples"""
    ess: Tensor
    """effective sample size, from 1 to k"""
    pareto_k: Tensor
    """k̂ of the k weights, see `iwae_lab.evaluation.pareto`; NaN for k < 21"""

    @property
    def k(self) -> int:
        return max(self.bounds)

    @property
    def bound(self) -> Tensor:
        """L̂_k; the NLL is its negative."""
        return self.bounds[self.k]

    @property
    def nll(self) -> float:
        """−L̂_k, averaged over images."""
        return -self.bound.mean().item()

    @property
    def nll_se(self) -> float:
        """Standard error of `nll` over images."""
        return standard_error(self.bound)

    @property
    def unreliable(self) -> float | None:
        """Share of images with k̂ > 0.7; None for k < 21."""
        return None if self.k < FEWEST else (self.pareto_k > UNRELIABLE).double().mean().item()

    def per_image(self) -> dict[str, Tensor]:
        """Everything by name, each [images] on the CPU: bound_1, …, elbo, ess, pareto_k."""
        named = {f"bound_{n}": bound for n, bound in self.bounds.items()}
        named |= {"elbo": self.elbo, "ess": self.ess, "pareto_k": self.pareto_k}
        return {name: values.cpu() for name, values in named.items()}


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of values [images]; NaN for a single one."""
    return (values.std() / math.sqrt(len(values))).item()


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
    kept: Kept | None = None,
) -> Likelihood:
    """L̂_k of binary images [images, pixels] from k samples each (Burda et al. 2016, eq. 8), with the diagnostics of
    the same samples.

    At most `rows` image-sample pairs are weighed at a time (by default 2,000, on CUDA 100,000), or one image's `BLOCK`.
    The result depends on `seed`, on the kind of device (see `image_noise`) and, but for rounding, on neither `rows` nor
    `compile` (see `Compiled`). Matrix products are in the precision of the weights, or in bf16 with precision="bf16";
    log-weights are always in the former.

    kept: results of an interrupted call. Its images are not computed again; the result is the same.

    Raises `UserError` as `require_images` does, for k < 1, and for an unknown `precision` or `compile`.
    """
    require("k", repr(k), isinstance(k, int) and k >= 1, "an integer of at least 1")
    require_one_of("precision", precision, PRECISIONS)
    require_images(model, images)
    batch = max(1, (rows or (CUDA_ROWS if images.is_cuda else ROWS)) // BLOCK)
    dtype = next(model.parameters()).dtype

    def log_weights(x: Tensor, *noise: Tensor) -> Tensor:
        with autocast(x.device, precision):
            return model.log_weights(x, len(noise[0]), lambda q, level, shape: noise[level])

    layers = model.posteriors(images[:1].to(dtype), 1, image_noise(seed, [0], images.device))
    ks = [*(n for n in KS if n < k), k]
    # one tensor, since a small one per batch would keep large freed blocks from being reused
    results = torch.empty(len(ks) + 3, len(images), dtype=torch.float64, device=images.device)
    part = Part(kept, model, images, "likelihood", k, seed, batch, precision, compile)
    before, compile = part.restored() or (results[:, :0], compile)
    done = before.shape[1]
    results[:, :done] = before
    weigh = Compiled(log_weights, compile)
    blocks = [min(BLOCK, k - drawn) for drawn in range(0, k, BLOCK)]

    def log_weights_of(start: int, x: Tensor) -> Iterator[Tensor]:
        """[samples, batch] of each block."""
        noise = image_noise(seed, range(start, start + len(x)), x.device)
        calls_left = math.ceil((len(images) - start) / batch) * len(blocks)
        for done, samples in enumerate(blocks):
            drawn = [noise(q, level, (samples, len(x), q[0].shape[-1])) for level, q in enumerate(layers)]
            yield weigh(x, *drawn, calls_left=calls_left - done)

    progress(done)
    for start in range(done, len(images), batch):
        x = images[start : start + batch].to(dtype)
        results[:, start : start + len(x)] = _estimates(log_weights_of(start, x), ks)
        part.keep(results[:, : start + len(x)], weigh.mode)
        progress(start + len(x))
    *bound, elbo, ess, shape = results
    return Likelihood(dict(zip(ks, bound, strict=True)), elbo, ess, shape)


def _estimates(blocks: Iterable[Tensor], ks: list[int]) -> Tensor:
    """L̂_n for each n of `ks`, ELBO, ESS and k̂ from blocks of log w [samples, batch]: float64 [len(ks) + 3, batch]."""
    rows: list[Tensor] = []
    bounds, largest = StreamingBounds(), LargestWeights(ks[-1])
    for log_w in blocks:
        for n in ks:
            if bounds.k < n <= bounds.k + len(log_w):
                first_n = copy.copy(bounds)
                first_n.add(log_w[: n - bounds.k])
                rows.append(first_n.iwae_bound)
        bounds.add(log_w)
        largest.add(log_w)
    return torch.stack([*rows, bounds.elbo, bounds.ess, pareto_k(largest.log_w)])
