"""MNIST and what was published in its format: two IDX files of images."""

import math
from abc import ABC

import numpy as np
from numpy.typing import NDArray

from iwae_lab.data.base import Dataset, Splits

__all__ = ["IdxDataset", "parse_idx"]

SIDE = 28
HELD_OUT = 400  # the last training images are validation (Burda et al. 2016)


class IdxDataset(Dataset, ABC):
    """`files` are the training and the test images; the last 400 training images are for validation."""

    def parse(self, data: bytes) -> NDArray[np.uint8]:
        images = parse_idx(data)
        if images.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"expected images of {SIDE}×{SIDE}, found an array of {list(images.shape)}")
        return images.reshape(-1, SIDE**2)

    def split(self, *arrays: NDArray[np.uint8]) -> Splits:
        train, test = arrays
        return Splits(train[:-HELD_OUT], train[-HELD_OUT:], test)


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes as an array of the shape its header gives.

    Raises `ValueError` with what was expected and found.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"expected an IDX file of unsigned bytes, 00 00 08 …, found {data[:4].hex(' ')}")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise ValueError(f"expected {start + math.prod(shape):,} bytes for shape {shape}, found {len(data):,}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
