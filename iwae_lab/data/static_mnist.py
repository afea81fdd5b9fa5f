"""MNIST binarized once and for all (Larochelle & Murray 2011): the three .amat files."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.download import DataFile, Packing

__all__ = ["StaticMNIST"]

# Plain http: what makes the download safe is the digest.
_MIRRORS = ("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)
_ROW = 2 * 784  # "0 1 0 … 1\n"


def pack(text: bytes) -> bytes:
    """An .amat file in one byte per eight pixels."""
    return np.packbits(_digits(text)).tobytes()


def unpack(packed: bytes) -> bytes:
    """The .amat file again. Raises `ValueError` for a length that is no whole number of images."""
    if len(packed) % (784 // 8):
        raise ValueError(f"expected {784 // 8} bytes per image, found {len(packed):,}")
    digits = np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(-1, 784)
    characters = np.full((len(digits), _ROW), ord(" "), np.uint8)
    characters[:, ::2] = digits + ord("0")
    characters[:, -1] = ord("\n")
    return characters.tobytes()


def _digits(text: bytes) -> NDArray[np.uint8]:
    """784 digits 0 or 1 per line, a space between two -> [images, 784]."""
    if len(text) % _ROW:
        raise ValueError(f"expected lines of {_ROW} bytes, found {len(text):,} bytes")
    digits = np.frombuffer(text, np.uint8).reshape(-1, _ROW)[:, ::2] - ord("0")
    if digits.max(initial=0) > 1:
        raise ValueError("expected pixels 0 or 1 with a space between two, found other characters")
    return digits


class StaticMNIST(Dataset):
    """50,000 training, 10,000 validation and 10,000 test images of 28×28, binary already.

    Results on it are about two nats worse than on resampled MNIST: another protocol.
    """

    name: ClassVar[str] = "static_mnist"
    binarizations: ClassVar[tuple[str, ...]] = ("static",)
    published_tests: ClassVar[int | None] = 10_000
    official: ClassVar[dict[str, str]] = {"static": "mnist/larochelle"}
    files = tuple(
        DataFile(
            f"binarized_mnist_{part}.amat",
            f"sha256:{sha256}",
            _MIRRORS,
            limit=images * _ROW,
            packing=Packing(pack, unpack),
        )
        for part, images, sha256 in (
            ("train", 50_000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
            ("valid", 10_000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
            ("test", 10_000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
        )
    )

    def __init__(self, binarization: str = "static") -> None:
        super().__init__(binarization)

    def parse(self, data: bytes) -> NDArray[np.uint8]:
        return _digits(data) * np.uint8(255)

    def split(self, *arrays: NDArray[np.uint8]) -> Splits:
        train, val, test = arrays
        return Splits(train, val, test)
