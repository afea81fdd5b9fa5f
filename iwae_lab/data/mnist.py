"""The official MNIST digits."""

from typing import ClassVar

from iwae_lab.data.download import DataFile
from iwae_lab.data.idx import TEST_BYTES, TRAIN_BYTES, IdxDataset
from iwae_lab.data.other_libraries import OtherLibraries

__all__ = ["MNIST"]

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_ELSEWHERE = OtherLibraries(torchvision="MNIST", keras="mnist", openml=52667, hub="ylecun/mnist")


class MNIST(IdxDataset):
    """59,600 training, 400 validation and 10,000 test images of 28×28."""

    name: ClassVar[str] = "mnist"
    published_tests: ClassVar[int | None] = 10_000
    official: ClassVar[dict[str, str]] = {"dynamic": "mnist/dynamic"}
    files = (
        DataFile(
            "train-images-idx3-ubyte.gz",
            "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            mirrors=_MIRRORS,
            limit=TRAIN_BYTES,
            copies=_ELSEWHERE.copies("train"),
        ),
        DataFile(
            "t10k-images-idx3-ubyte.gz",
            "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            mirrors=_MIRRORS,
            limit=TEST_BYTES,
            copies=_ELSEWHERE.copies("test"),
        ),
    )
