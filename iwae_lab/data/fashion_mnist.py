"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747)."""

from pathlib import Path
from typing import ClassVar

from iwae_lab.data.download import DataFile
from iwae_lab.data.idx import TEST_BYTES, TRAIN_BYTES, IdxDataset
from iwae_lab.data.other_libraries import OtherLibraries

__all__ = ["FashionMNIST"]

_MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_PLACES = (Path("/usr/share/datasets/fashion-mnist"),)  # of Debian's package dataset-fashion-mnist
_ELSEWHERE = OtherLibraries(
    torchvision="FashionMNIST", keras="fashion-mnist", openml=18238735, hub="zalando-datasets/fashion_mnist"
)


class FashionMNIST(IdxDataset):
    """59,600 training, 400 validation and 10,000 test images of 28×28."""

    name: ClassVar[str] = "fashion_mnist"
    published_tests: ClassVar[int | None] = 10_000
    official: ClassVar[dict[str, str]] = {"dynamic": "fashion_mnist/dynamic"}
    files = (
        DataFile(
            "train-images-idx3-ubyte.gz",
            "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            mirrors=_MIRRORS,
            places=_PLACES,
            limit=TRAIN_BYTES,
            copies=_ELSEWHERE.copies("train"),
        ),
        DataFile(
            "t10k-images-idx3-ubyte.gz",
            "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            mirrors=_MIRRORS,
            places=_PLACES,
            limit=TEST_BYTES,
            copies=_ELSEWHERE.copies("test"),
        ),
    )
