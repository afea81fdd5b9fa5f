"""The interface of datasets: three sets of grey-level images in memory, and how they are found and read."""

import contextlib
import dataclasses
import math
import os
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import platformdirs
from numpy.typing import NDArray

from iwae_lab.console.errors import UserError, require, require_one_of
from iwae_lab.data.download import DataFile

__all__ = ["BINARIZATIONS", "Dataset", "Splits", "resolve_data_dir"]

BINARIZATIONS = ("dynamic", "static", "threshold")


@dataclass(frozen=True)
class Splits:
    """Grey levels 0..255, uint8 [images, pixels] each; a grey level / 255 is the probability of a 1."""

    train: NDArray[np.uint8]
    val: NDArray[np.uint8]
    test: NDArray[np.uint8]
    shape: tuple[int, int] = (28, 28)
    """height and width"""
    published: bool = False
    """whether every file they were read from is the published one"""

    def require_valid(self) -> None:
        """Raises `ValueError` for anything else, and for fewer than two images, which standard errors take."""
        pixels = math.prod(self.shape)
        for name in ("train", "val", "test"):
            images = getattr(self, name)
            is_array = isinstance(images, np.ndarray)
            if is_array and images.dtype == np.uint8 and images.shape[1:] == (pixels,) and len(images) >= 2:
                continue
            found = f"{images.dtype} {list(images.shape)}" if is_array else type(images).__name__
            raise ValueError(f"expected {name} as uint8 [images, {pixels}], at least 2 images, found {found}")

    @property
    def binary(self) -> bool:
        """Whether all levels are 0 or 255."""
        return all(bool(np.isin(images, (0, 255)).all()) for images in (self.test, self.val, self.train))


class Dataset(ABC):
    """A source of images and its binarization: locate → verify → read → split, the same way for all.

    binarization: "dynamic" draws a pixel again at each use, "static" draws it once and for all, "threshold"
    makes it 1 from a probability of one half. Test and validation images are always binarized once.
    Constructors raise `UserError` for parameters out of range.
    """

    name: ClassVar[str]
    files: tuple[DataFile, ...] = ()
    binarizations: ClassVar[tuple[str, ...]] = BINARIZATIONS
    """those that make sense for these images"""
    published_tests: ClassVar[int | None] = None
    """how many test images the published files have"""
    official: ClassVar[dict[str, str]] = {}
    """binarization -> the name of the official protocol"""

    def __init__(self, binarization: str = "dynamic") -> None:
        require_one_of("binarization", binarization, self.binarizations)
        self.binarization = binarization

    def is_published(self, data_dir: Path) -> bool:
        """Whether `load` can give only the published content."""
        for file in self.files:
            if file.digest is None:
                return False
            if not file.exact:
                local, _ = file.search(data_dir / self.name)
                if local is not None and not local.published:
                    return False
        return True

    def load(self, data_dir: Path) -> Splits:
        """The three sets. Raises `UserError` for a file that is missing, damaged or not of this format."""
        contents = [file.read(data_dir / self.name) for file in self.files]
        arrays = []
        for content in contents:
            try:
                arrays.append(self.parse(content.data))
            except ValueError as error:
                raise UserError(f"{content.path}: {error}") from None
        try:
            splits = self.split(*arrays)
            splits.require_valid()
        except ValueError as error:
            raise UserError(f"dataset={self.name}: {error}") from None
        resampled = self.binarization != "static" and splits.binary
        require("dataset.binarization", self.binarization, not resampled, "static, as the images are binary")
        return dataclasses.replace(splits, published=all(content.published for content in contents))

    @abstractmethod
    def parse(self, data: bytes) -> Any:
        """What one file holds. Raises `ValueError` with what was expected and found."""

    @abstractmethod
    def split(self, *arrays: Any) -> Splits:
        """The sets, from what each of `files` holds. Raises `ValueError` with what was expected and found."""


def resolve_data_dir(chosen: str | None = None) -> Path:
    """The folder that was chosen, else $IWAE_LAB_DATA, else one in the user's cache; `~` is the home directory.

    It need not exist yet. Raises `UserError` for what can't be a directory. Where there is no home directory, the
    cache is among the temporary files.
    """
    key, value = ("IWAE_LAB_DATA", os.environ.get("IWAE_LAB_DATA")) if chosen is None else ("data_dir", chosen)
    if value or chosen is not None:
        path = os.path.expanduser(value or "")
        usable = os.path.isdir(path) or not (os.path.exists(path) or path.startswith("~"))
        require(key, value, bool(path) and usable, "a directory")
        return Path(path)
    with contextlib.suppress(RuntimeError):  # in some versions, without a home directory
        if (cache := Path(platformdirs.user_cache_dir("iwae_lab"))).is_absolute():
            return cache
    return Path(tempfile.gettempdir()) / "iwae_lab"
