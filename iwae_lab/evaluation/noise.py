"""Noise that depends on the seed, the image, the layer, the sample and the type of numbers, and on nothing else."""

from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from iwae_lab.models.base import Noise
from iwae_lab.models.distributions import Distribution

__all__ = ["BLOCK", "HashedNoise", "StreamNoise", "image_noise"]

BLOCK = 250  # samples drawn at a time for one image and layer
HASHED_ON = ("cuda",)  # a generator per image there would take a kernel launch per image, layer and block


def image_noise(seed: int, indices: Iterable[int], device: torch.device) -> Noise:
    """Noise for `LatentVariableModel.draw`, such that an image's samples are the same whatever batch it is in.

    They also do not depend on how they are divided into chunks, as long as every chunk but the last is a multiple of
    `BLOCK` samples. CPU and CUDA give different, equally distributed numbers.

    seed: of all noise. indices: the positions of the batch's images in their set.
    """
    return (HashedNoise if device.type in HASHED_ON else StreamNoise)(seed, indices, device)


class StreamNoise:
    """One torch generator per image and layer."""

    def __init__(self, seed: int, indices: Iterable[int], device: torch.device) -> None:
        self.seed = seed
        self.indices = torch.tensor(list(indices))
        self.device = device
        self.streams: dict[int, list[Generator]] = {}

    def __call__(self, distribution: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
        k, _, units = shape
        if level not in self.streams:
            seeds = _shift(_mix(self.seed, self.indices, level), 1)
            self.streams[level] = [Generator(self.device).manual_seed(seed) for seed in seeds.tolist()]
        blocks = -(-k // BLOCK)
        drawn = [
            torch.stack([distribution.noise((BLOCK, units), stream) for stream in self.streams[level]], dim=1)
            for _ in range(blocks)
        ]
        return torch.cat(drawn)[:k] if blocks > 1 else drawn[0][:k]


class HashedNoise:
    """A hash of each number's position: a few kernels per call, whatever the number of images.

    The units of a sample are a SplitMix64 sequence (Steele et al. 2014) that starts at a hash of seed, image, layer
    and sample.
    """

    def __init__(self, seed: int, indices: Iterable[int], device: torch.device) -> None:
        self.seed = seed
        self.indices = torch.tensor(list(indices), device=device)
        self.drawn: dict[int, int] = {}  # samples per layer

    def __call__(self, distribution: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
        k, _, units = shape
        first = self.drawn.get(level, 0)
        self.drawn[level] = first + k
        samples = torch.arange(first, first + k, device=self.indices.device).unsqueeze(-1)
        starts = _mix(self.seed, self.indices, level, samples)  # [k, batch]
        steps = torch.arange(1, units + 1, device=starts.device) * GOLDEN
        return distribution.noise_from_bits(_scramble(starts.unsqueeze(-1) + steps))


GOLDEN, FIRST, SECOND = (constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(*numbers: int | Tensor) -> Tensor:
    """A 64-bit hash of integers, int64, broadcast; nearby ones give unlike hashes."""
    mixed = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        mixed = _scramble((number + mixed + 1) * GOLDEN)
    return mixed


def _scramble(bits: Tensor) -> Tensor:
    """SplitMix64's finalizer; products of int64 wrap."""
    bits = (bits ^ _shift(bits, 30)) * FIRST
    bits = (bits ^ _shift(bits, 27)) * SECOND
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical shift to the right."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
