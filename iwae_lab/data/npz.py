"""Images of the user's own, from a NumPy archive."""

import math
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from iwae_lab.console.errors import require
from iwae_lab.data.archive import Archive, listed
from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.download import DataFile
from iwae_lab.data.grey_levels import grey_levels

__all__ = ["NPZ"]

FEWEST = 2  # images of a split: a standard error takes two
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class NPZ(Dataset):
    """The arrays `train`, `test` and, if there is one, `val` (or `valid`, or `validation`) of a .npz file.

    path: from the current directory or the data directory. An array is [images, height, width] or,
    for square images, [images, pixels]; uint8 grey levels, floats in [0, 1] (rounded to 255ths) or booleans.
    Without `val` the last tenth of `train`, at least two images, is for validation. Keras's names `x_train`, `x_test`
    are understood, and `y_train`, `y_test` beside them are labels, which are not read. Any other array is refused.
    """

    name: ClassVar[str] = "npz"

    def __init__(self, path: str, binarization: str = "dynamic") -> None:
        super().__init__(binarization)
        require("path", path, bool(path) and "\0" not in path, "the path of a .npz file")
        file = Path(os.path.expanduser(path))
        if ".." in file.parts:
            file = file.absolute()  # so that no search from the data directory leaves it
        self.files = (DataFile(str(file), key="dataset.path", places=(Path(),)),)

    def parse(self, data: bytes) -> dict[str, NDArray[np.uint8]]:
        """Grey levels [images, height, width] by split."""
        archive = Archive(data)
        labels = {f"y_{name}" for name in _SPLITS}
        chosen = [name for name in archive.names if name not in labels]
        splits = [_SPLITS.get(name.removeprefix("x_"), "") for name in chosen]
        if sorted(splits) not in (["test", "train"], ["test", "train", "val"]):
            expected = "expected the arrays train, test and at most one of val, valid and validation"
            raise ValueError(f"{expected}, found {listed(archive.names)}")
        images = {}
        for name, split in zip(chosen, splits, strict=True):
            array = archive.read(name)
            try:
                images[split] = grey_levels(_as_images(array))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        shapes = {split: array.shape[1:] for split, array in images.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"expected images of one size, found {shapes}")
        if "val" not in images and len(images["train"]) < 2 * FEWEST:
            raise ValueError(f"expected val, or at least {2 * FEWEST} images in train, found {len(images['train'])}")
        return images

    def split(self, *arrays: dict[str, NDArray[np.uint8]]) -> Splits:
        (images,) = arrays
        height, width = images["test"].shape[1:]
        flat = {name: array.reshape(len(array), -1) for name, array in images.items()}
        train = flat["train"]
        if "val" not in flat:
            train, flat["val"] = np.split(train, [-max(FEWEST, math.ceil(len(train) / 10))])
        return Splits(train, flat["val"], flat["test"], (height, width))


def _as_images(array: NDArray[Any]) -> NDArray[Any]:
    """[images, height, width], from that or from flat square images."""
    if array.ndim == 2 and math.isqrt(array.shape[1]) ** 2 == array.shape[1]:
        side = math.isqrt(array.shape[1])
        array = array.reshape(-1, side, side)
    if array.ndim != 3 or min(array.shape) < 1:
        shape = list(array.shape)
        raise ValueError(f"expected one or more images, [images, height, width] or flat and square, found {shape}")
    if len(array) < FEWEST:
        raise ValueError(f"expected at least {FEWEST} images, found {len(array)}")
    return array
