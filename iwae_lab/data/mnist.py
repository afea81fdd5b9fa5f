"""The official MNIST digits, from their four IDX files."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.files import GzipFile

__all__ = ["MNIST", "parse_idx"]

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_HELD_OUT = 400  # the last training images are validation (Burda et al. 2016)


class MNIST(Dataset):
    """59,600 training, 400 validation and 10,000 test images of 28×28."""

    name: ClassVar[str] = "mnist"
    files: ClassVar[dict[str, GzipFile]] = {
        name: GzipFile(f"{name}-ubyte.gz", sha256, _MIRRORS)
        for name, sha256 in (
            ("train-images-idx3", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            ("train-labels-idx1", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            ("t10k-images-idx3", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            ("t10k-labels-idx1", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        )
    }

    def load(self, data_dir: Path) -> Splits:
        arrays = self.read(data_dir)
        train = arrays["train-images-idx3"].reshape(-1, 784)
        return Splits(train[:-_HELD_OUT], train[-_HELD_OUT:], arrays["t10k-images-idx3"].reshape(-1, 784))

    def read(self, data_dir: Path) -> dict[str, NDArray[np.uint8]]:
        """The four arrays by file name: images [n, 28, 28] and labels [n]."""
        folder = data_dir if (data_dir / "train-images-idx3-ubyte.gz").exists() else data_dir / self.name
        return {name: parse_idx(file.read(folder)) for name, file in self.files.items()}


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes as an array of the shape its header gives."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
