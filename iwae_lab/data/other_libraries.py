"""Where other libraries keep MNIST and Fashion-MNIST, and how to get the IDX files back from their formats.

Nothing here has to be trusted: a file counts only if what comes out of it has the hash of the published one.
"""

import io
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iwae_lab.data.archive import Archive
from iwae_lab.data.download import Copies
from iwae_lab.data.idx import SIDE, to_idx

__all__ = ["OtherLibraries"]

_SIZES = {"train": 60_000, "test": 10_000}


@dataclass(frozen=True)
class OtherLibraries:
    """What a dataset in MNIST's format is called in other libraries."""

    torchvision: str
    """folder"""
    keras: str
    """name"""
    openml: int
    """id of the file"""
    hub: str
    """owner/name"""

    def copies(self, split: str) -> tuple[Copies, ...]:
        """Copies of a split's images, "train" or "test"."""
        return (
            Copies(lambda folder: _idx_files(folder.parent, split, self.torchvision, self.keras)),
            Copies(
                lambda folder: _keras_archives(folder, self.keras),
                lambda data: to_idx(Archive(data).read(f"x_{split}")),
            ),
            Copies(lambda folder: _hub_files(folder, split, self.hub), _from_parquet),
            Copies(lambda folder: _openml_files(self.openml), lambda data: _from_arff(data, split)),
        )


def _idx_files(data_dir: Path, split: str, torchvision: str, keras: str) -> Iterator[Path]:
    """torchvision's, in the data directory or ./data, and Keras's. Some archives use a dot for a hyphen."""
    stem = "train-images" if split == "train" else "t10k-images"
    names = [f"{stem}-idx3-ubyte", f"{stem}-idx3-ubyte.gz", f"{stem}.idx3-ubyte", f"{stem}.idx3-ubyte.gz"]
    roots = [root / torchvision / "raw" for root in (data_dir, Path("data"))]
    for folder in (*roots, data_dir / "raw", data_dir, _keras_home() / keras):
        for name in names:
            yield folder / name


def _keras_archives(folder: Path, keras: str) -> Iterator[Path]:
    for place in (folder, folder.parent, _keras_home()):
        yield place / f"{keras}.npz"


def _keras_home() -> Path:
    return _home("KERAS_HOME", "~/.keras") / "datasets"


def _hub_files(folder: Path, split: str, hub: str) -> Iterator[Path]:
    """Hugging Face's: copied to `folder`, or in the hub's cache under the dataset's present or first name."""
    name = hub.partition("/")[2]
    pattern = f"{split}-*.parquet"
    yield from sorted(folder.glob(pattern))
    cache = _home("XDG_CACHE_HOME", "~/.cache") / "huggingface"
    root = _home("HF_HUB_CACHE", str(_home("HF_HOME", str(cache)) / "hub"))
    for repository in (hub, name):
        yield from sorted(root.glob(f"datasets--{repository.replace('/', '--')}/snapshots/*/{name}/{pattern}"))


def _openml_files(openml: int) -> Iterator[Path]:
    """scikit-learn's: fetch_openml names its files after their URLs."""
    root = _home("SCIKIT_LEARN_DATA", "~/scikit_learn_data") / "openml" / "openml.org" / "data"
    for pattern in (f"**/{openml}.gz", f"**/{openml}/*.gz"):
        yield from sorted(root.glob(pattern))


def _home(variable: str, default: str) -> Path:
    return Path(os.path.expanduser(os.environ.get(variable) or default))


def _from_arff(data: bytes, split: str) -> bytes:
    """Reads rows of 784 pixels and a class, training images first."""
    heading = re.search(rb"^@data\s*$", data, re.IGNORECASE | re.MULTILINE)
    if not heading:
        raise ValueError("expected an ARFF file with a line @data")
    lines = io.BytesIO(data)
    lines.seek(heading.end())
    rows = (line for line in lines if line.strip() and not line.startswith(b"%"))
    start = 0 if split == "train" else _SIZES["train"]
    chosen = itertools.islice(rows, start, start + _SIZES[split])
    pixels = np.loadtxt(chosen, dtype=np.uint8, delimiter=",", usecols=range(SIDE**2))
    return to_idx(pixels.reshape(-1, SIDE, SIDE))


def _from_parquet(data: bytes) -> bytes:
    """Reads a column `image` of PNG files."""
    from PIL import Image

    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError("expected pyarrow to be installed (pip install pyarrow) to read this file") from None

    def pixels(png: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.mode != "L" or image.size != (SIDE, SIDE):  # before any pixel is unpacked
                raise ValueError(f"expected grey images of {SIDE}×{SIDE}, found {image.mode} of {image.size}")
            return np.asarray(image)

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        if file.metadata.num_rows > max(_SIZES.values()):
            raise ValueError(f"expected at most {max(_SIZES.values()):,} rows, found {file.metadata.num_rows:,}")
        images = file.read(columns=["image.bytes"]).column("image").combine_chunks().field("bytes")
        return to_idx(np.stack([pixels(png.as_py()) for png in images]))
    except Exception as error:  # whatever a damaged file makes its readers raise
        raise ValueError(f"expected a Parquet file with a column image of PNG files ({error})") from None
