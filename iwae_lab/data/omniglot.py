"""Omniglot at 28×28, as the paper's authors gave it out."""

import io
import logging
import zlib
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.download import DataFile
from iwae_lab.data.grey_levels import grey_levels

__all__ = ["Omniglot"]

log = logging.getLogger(__name__)

_SIDE = 28
_TRAIN, _TRAIN_AND_VAL = 23_000, 24_345  # of the published file
_SEED = 3  # of the shuffle before the validation images are held out


class Omniglot(Dataset):
    """23,000 training, 1,345 validation and 8,070 test drawings of 28×28.

    Its grey levels are not all whole 255ths; rounding them changes log-likelihoods by some 1e-6 nats an
    image. A file of another size is split in the same proportion, and its results are under no official protocol.
    """

    name: ClassVar[str] = "omniglot"
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
        try:
            found = loadmat(io.BytesIO(data))
        except (ValueError, OSError, NotImplementedError, zlib.error, MatReadError) as error:
            raise ValueError(f"expected a MATLAB file, whole ({error})") from None
        if not {"data", "testdata"} <= found.keys():
            raise ValueError(f"expected the keys data and testdata, found {', '.join(found) or 'none'}")
        return [_upright(found[key]) for key in ("data", "testdata")]

    def split(self, *arrays: list[NDArray[np.uint8]]) -> Splits:
        ((images, test),) = arrays
        if len(images) != _TRAIN_AND_VAL:
            log.warning(
                "omniglot: expected %d images and 8070 for testing, found %d and %d; split in the same proportion, "
                "their results are not comparable with published ones",
                _TRAIN_AND_VAL,
                len(images),
                len(test),
            )
        order = np.random.RandomState(_SEED).permutation(len(images))
        train, val = np.split(images[order], [len(images) * _TRAIN // _TRAIN_AND_VAL])
        return Splits(train, val, test)


def _upright(columns: NDArray[Any]) -> NDArray[np.uint8]:
    """Images from an array with one a column, each column by column, as MATLAB keeps them."""
    if columns.ndim != 2 or len(columns) != _SIDE**2:
        raise ValueError(f"expected {_SIDE**2} pixels × images, found {columns.shape}")
    return grey_levels(columns.T).reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1).reshape(-1, _SIDE**2)
