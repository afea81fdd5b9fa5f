"""MNIST and what was published in its format: two IDX files of images."""

import math
from abc import ABC
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iwae_lab.data.base import Dataset, Splits

__all__ = ["SIDE", "TEST_BYTES", "TRAIN_BYTES", "IdxDataset", "parse_idx", "to_idx"]

SIDE = 28
TRAIN_BYTES, TEST_BYTES = (16 + n * SIDE**2 for n in (60_000, 10_000))  # of the published files, unpacked
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


def to_idx(images: NDArray[Any]) -> bytes:
    """The IDX file of uint8 images. Raises `ValueError` for another type."""
    if images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images, found {images.dtype}")
    sizes = b"".join(size.to_bytes(4, "big") for size in images.shape)
    return b"\0\0\x08" + bytes([images.ndim]) + sizes + images.tobytes()
