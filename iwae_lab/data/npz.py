"""Images of the user's own, from a NumPy archive."""

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.download import DataFile
from iwae_lab.data.grey_levels import grey_levels

__all__ = ["NPZ"]


class NPZ(Dataset):
    """The arrays `train`, `test` and, if there is one, `valid` of a .npz file.

    path: of the file, or its name in the data directory. An array is [images, height, width] or, for square
    images, [images, pixels]; uint8 grey levels, floats in [0, 1] (rounded to 255ths) or booleans. Without
    `valid` the last tenth of `train` is for validation.
    """

    name: ClassVar[str] = "npz"

    def __init__(self, path: str, binarization: str = "dynamic") -> None:
        super().__init__(binarization)
        file = Path(path).expanduser()
        self.files = (DataFile(file.name, places=(file.parent,)),)

    def parse(self, data: bytes) -> dict[str, NDArray[np.uint8]]:
        """Grey levels [images, height, width] by name."""
        try:
            archive = np.load(io.BytesIO(data), allow_pickle=False)
            found = {name: archive[name] for name in ("train", "valid", "test") if name in archive}
        except (ValueError, TypeError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"expected a .npz file, whole ({error})") from None
        if missing := {"train", "test"} - found.keys():
            raise ValueError(f"expected the arrays train and test, found no {' and no '.join(sorted(missing))}")
        images = {}
        for name, array in found.items():
            try:
                images[name] = grey_levels(_as_images(array))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        shapes = {name: array.shape[1:] for name, array in images.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"expected images of one size, found {shapes}")
        return images

    def split(self, *arrays: dict[str, NDArray[np.uint8]]) -> Splits:
        (images,) = arrays
        height, width = images["test"].shape[1:]
        flat = {name: array.reshape(len(array), -1) for name, array in images.items()}
        train = flat["train"]
        if "valid" not in flat:
            train, flat["valid"] = np.split(train, [len(train) - math.ceil(len(train) / 10)])
        return Splits(train, flat["valid"], flat["test"], (height, width))


def _as_images(array: NDArray[Any]) -> NDArray[Any]:
    """[images, height, width], from that or from flat square images."""
    if array.ndim == 2 and math.isqrt(array.shape[1]) ** 2 == array.shape[1]:
        side = math.isqrt(array.shape[1])
        array = array.reshape(-1, side, side)
    if array.ndim != 3 or min(array.shape) < 1:
        raise ValueError(f"expected [images, height, width] or flat square images, found {list(array.shape)}")
    if len(array) < 2:
        raise ValueError(f"expected at least 2 images, found {len(array)}")
    return array
