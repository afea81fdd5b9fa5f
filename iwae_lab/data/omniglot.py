"""Omniglot at 28×28, as the paper's authors published it."""

import io
import logging
import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from iwae_lab.data.archive import Refused, intact, listed
from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.download import LIMIT, DataFile
from iwae_lab.data.grey_levels import grey_levels

__all__ = ["Omniglot"]

log = logging.getLogger(__name__)

_SIDE = 28
_KEYS = ("data", "testdata")
_TRAIN, _TRAIN_AND_VAL = 23_000, 24_345  # of the published file
_SEED = 3  # of the shuffle before the validation images are held out


class Omniglot(Dataset):
    """23,000 training, 1,345 validation and 8,070 test drawings of 28×28.

    Its grey levels are not all whole 255ths; rounding them changes log-likelihoods by some 1e-6 nats per image. A file
    of another size is split in the same proportion, and its results are under no official protocol.
    """

    name: ClassVar[str] = "omniglot"
    published_tests: ClassVar[int | None] = 8_070
    official: ClassVar[dict[str, str]] = {"dynamic": "omniglot/burda"}
    files = (
        DataFile(
            "chardata.mat",
            "git:016a3536ffe5e1d38e42563a18d7a78bfaf643ec",
            ("https://github.com/yburda/iwae/raw/78a6075484bd7dd6f47a4bb9880d2295bc7a5220/datasets/OMNIGLOT/",),
            exact=False,
        ),
    )

    def parse(self, data: bytes) -> list[NDArray[np.uint8]]:
        """Grey levels [images, 784] of the keys `data` and `testdata`, upright."""
        with intact("MATLAB file"):
            declared = {name: (shape, kind) for name, shape, kind in whosmat(io.BytesIO(data))}
            if not {*_KEYS} <= declared.keys():
                raise Refused(
                    f"expected an intact MATLAB file with the keys data and testdata, found {listed(declared)}"
                )
            for key in _KEYS:
                _require_columns(key, *declared[key])
            arrays = loadmat(io.BytesIO(data), variable_names=_KEYS)
        return [_upright(arrays[key]) for key in _KEYS]

    def split(self, *arrays: list[NDArray[np.uint8]]) -> Splits:
        ((images, test),) = arrays
        if len(images) != _TRAIN_AND_VAL:
            log.warning(
                "omniglot: expected %d images and 8070 for testing, found %d and %d; split in the same proportion; "
                "their results are not comparable with published ones",
                _TRAIN_AND_VAL,
                len(images),
                len(test),
            )
        order = np.random.RandomState(_SEED).permutation(len(images))
        train, val = np.split(images[order], [len(images) * _TRAIN // _TRAIN_AND_VAL])
        return Splits(train, val, test)


def _require_columns(key: str, shape: tuple[int, ...], kind: str) -> None:
    if kind not in ("double", "single", "uint8"):
        raise Refused(f"{key}: expected numbers, found {kind}")
    if len(shape) != 2 or shape[0] != _SIDE**2:
        raise Refused(f"{key}: expected {_SIDE**2} pixels × images, found {list(shape)}")
    if 8 * math.prod(shape) > LIMIT:
        raise Refused(f"{key}: expected at most {LIMIT // (8 * _SIDE**2):,} images, found {shape[1]:,}")


def _upright(columns: NDArray[Any]) -> NDArray[np.uint8]:
    """Images from MATLAB's layout: one image per column, its own columns one after the other."""
    return grey_levels(columns.T).reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1).reshape(-1, _SIDE**2)
