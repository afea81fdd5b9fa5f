"""What every dataset gives: three sets of grey-level images in memory, and how they become binary."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import platformdirs
from numpy.typing import NDArray

from iwae_lab.errors import UserError

__all__ = ["BINARIZATIONS", "Dataset", "Splits", "default_data_dir"]

BINARIZATIONS = ("stochastic",)


@dataclass(frozen=True)
class Splits:
    """Grey levels 0..255, uint8 [images, pixels] each."""

    train: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    test: NDArray[np.uint8]
    shape: tuple[int, int] = (28, 28)
    """height and width"""


class Dataset(ABC):
    """A source of images and its binarization."""

    name: ClassVar[str]

    def __init__(self, binarization: str = "stochastic") -> None:
        if binarization not in BINARIZATIONS:
            raise UserError(f"binarization={binarization}: expected one of {', '.join(BINARIZATIONS)}")
        self.binarization = binarization

    @abstractmethod
    def load(self, data_dir: Path) -> Splits:
        """Locate, verify, read and split. Raises `UserError` where that can't be done."""


def default_data_dir() -> Path:
    """$IWAE_LAB_DATA, else the user's cache directory."""
    chosen = os.environ.get("IWAE_LAB_DATA")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("iwae_lab"))
