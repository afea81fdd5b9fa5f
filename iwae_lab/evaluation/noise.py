"""Noise that depends on the seed, the image and the layer, and on nothing else."""

from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from iwae_lab.layers import Distribution

__all__ = ["ImageNoise"]

BLOCK = 250  # samples drawn at a time for one image and layer


class ImageNoise:
    """Noise for `LatentVariableModel.draw`: one stream for each image and each layer.

    So an image's samples are the same whatever batch it is in and however its samples are divided
    into chunks, as long as every chunk but the last is a multiple of `BLOCK` samples.

    seed: of all streams. indices: the positions of the batch's images in their set.
    """

    def __init__(self, seed: int, indices: Iterable[int], device: torch.device) -> None:
        self.seed = seed
        self.indices = list(indices)
        self.device = device
        self.streams: dict[int, list[Generator]] = {}

    def __call__(self, distribution: Distribution, level: int, shape: tuple[int, int, int]) -> Tensor:
        k, _, units = shape
        if level not in self.streams:
            self.streams[level] = [
                Generator(self.device).manual_seed(_mix(self.seed, index, level)) for index in self.indices
            ]
        blocks = -(-k // BLOCK)
        drawn = [
            torch.stack([distribution.noise((BLOCK, units), stream) for stream in self.streams[level]], dim=1)
            for _ in range(blocks)
        ]
        return torch.cat(drawn)[:k] if blocks > 1 else drawn[0][:k]


def _mix(*numbers: int) -> int:
    """A 63-bit seed from small integers (splitmix64's finaliser), so that nearby ones give unlike streams."""
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 1) * 0x9E3779B97F4A7C15 % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed >> 1
