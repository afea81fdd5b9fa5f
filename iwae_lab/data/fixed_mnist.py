"""MNIST binarized once and for all (Larochelle & Murray 2011): the three .amat files."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.files import DataFile

__all__ = ["FixedMNIST"]

# Plain http: what makes the download safe is the digest.
_MIRRORS = ("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)
_ROW = 2 * 784  # "0 1 0 … 1\n"


class FixedMNIST(Dataset):
    """50,000 training, 10,000 validation and 10,000 test images of 28×28, binary already.

    Results on it are about two nats worse than on resampled MNIST: another protocol.
    """

    name: ClassVar[str] = "fixed_mnist"
    binarizations: ClassVar[tuple[str, ...]] = ("fixed",)
    official: ClassVar[dict[str, str]] = {"fixed": "mnist/larochelle"}
    files = tuple(
        DataFile(f"binarized_mnist_{part}.amat", f"sha256:{sha256}", _MIRRORS)
        for part, sha256 in (
            ("train", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
            ("valid", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
            ("test", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
        )
    )

    def __init__(self, binarization: str = "fixed") -> None:
        super().__init__(binarization)

    def parse(self, data: bytes) -> NDArray[np.uint8]:
        """784 digits 0 or 1 a line, a space between two."""
        if len(data) % _ROW:
            raise ValueError(f"expected lines of {_ROW} bytes, found {len(data):,} bytes")
        characters = np.frombuffer(data, np.uint8).reshape(-1, _ROW)
        pixels = characters[:, ::2] - ord("0")
        if pixels.max(initial=0) > 1:
            raise ValueError("expected pixels 0 or 1 with a space between two, found other characters")
        return pixels * np.uint8(255)

    def split(self, *arrays: NDArray[np.uint8]) -> Splits:
        train, valid, test = arrays
        return Splits(train, valid, test)
