"""MNIST and Fashion-MNIST are found where other libraries keep them, and taken only for the published images."""

import dataclasses
import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import arff, idx, images, npz, parquet, sha256

from iwae_lab.console.errors import UserError
from iwae_lab.data import other_libraries
from iwae_lab.data.fashion_mnist import FashionMNIST
from iwae_lab.data.idx import HELD_OUT, IdxDataset
from iwae_lab.data.mnist import MNIST

TRAIN, TEST = images(HELD_OUT + 5), images(6, seed=1)
FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}

Layout = dict[str, bytes]


def raw(folder: str, pack: Callable[[bytes], bytes] = bytes, name: Callable[[str], str] = str) -> Callable[..., Layout]:
    """The two IDX files in a folder."""
    return lambda train, test: {
        f"{folder}/{name(FILES['train'])}": pack(idx(train)),
        f"{folder}/{name(FILES['test'])}": pack(idx(test)),
    }


def keras(path: str) -> Callable[..., Layout]:
    labels = {"y_train": np.zeros(5, np.uint8), "y_test": np.zeros(5, np.uint8)}
    return lambda train, test: {path: npz(x_train=train, x_test=test, **labels)}


def openml(path: str) -> Callable[..., Layout]:
    return lambda train, test: {path: gzip.compress(arff(train, test))}


def hub(folder: str) -> Callable[..., Layout]:
    def files(train: np.ndarray, test: np.ndarray) -> Layout:
        pytest.importorskip("pyarrow")
        return {
            f"{folder}/train-00000-of-00001.parquet": parquet(train),
            f"{folder}/test-00000-of-00001.parquet": parquet(test),
        }

    return files


def gz(name: str) -> str:
    return f"{name}.gz"


OPENML = "home/scikit_learn_data/openml/openml.org/data/v1/download"
HUB = "home/.cache/huggingface/hub"
MNIST_LAYOUTS = {
    "torchvision": raw("data/MNIST/raw"),
    "torchvision's root": raw("data/raw"),
    "torchvision .gz": raw("data/MNIST/raw", gzip.compress, gz),
    "torchvision in ./data": raw("cwd/data/MNIST/raw"),
    "unpacked": raw("data/mnist"),
    "unpacked, directly": raw("data"),
    "unpacked under the name of the .gz": raw("data/mnist", name=gz),
    "with dots": raw("data", name=lambda name: name.replace("-idx3", ".idx3")),
    "Keras": keras("home/.keras/datasets/mnist.npz"),
    "Keras's, in the data directory": keras("data/mnist.npz"),
    "scikit-learn": openml(f"{OPENML}/52667/mnist_784.arff.gz"),
    "an older scikit-learn": openml(f"{OPENML}/52667.gz"),
    "Hugging Face": hub(f"{HUB}/datasets--ylecun--mnist/snapshots/77f3/mnist"),
    "Hugging Face, an older name": hub(f"{HUB}/datasets--mnist/snapshots/77f3/mnist"),
    "Hugging Face's, in the data directory": hub("data/mnist"),
}
FASHION_LAYOUTS = {
    "torchvision": raw("data/FashionMNIST/raw"),
    "Keras": raw("home/.keras/datasets/fashion-mnist", gzip.compress, gz),
    "scikit-learn": openml(f"{OPENML}/18238735/dataset.arff.gz"),
    "Hugging Face": hub(f"{HUB}/datasets--zalando-datasets--fashion_mnist/snapshots/531b/fashion_mnist"),
}
CASES = [
    pytest.param(dataset, layout, id=f"{dataset.name}: {name}")
    for dataset, layouts in ((MNIST, MNIST_LAYOUTS), (FashionMNIST, FASHION_LAYOUTS))
    for name, layout in layouts.items()
]
CONTAINERS = {name: MNIST_LAYOUTS[name] for name in ("torchvision .gz", "Keras", "scikit-learn", "Hugging Face")}


@pytest.fixture(autouse=True)
def a_machine_of_its_own(tmp_path, monkeypatch):
    for folder in ("home", "cwd", "data"):
        (tmp_path / folder).mkdir()
    for variable in ("KERAS_HOME", "SCIKIT_LEARN_DATA", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(other_libraries, "_SIZES", {"train": len(TRAIN), "test": len(TEST)})


def small(dataset: type[IdxDataset]) -> IdxDataset:
    """The dataset, with TRAIN and TEST for what was published, and no network."""
    made = dataset()
    made.files = tuple(
        dataclasses.replace(file, digest=sha256(idx(array)), mirrors=(), places=())
        for file, array in zip(made.files, (TRAIN, TEST), strict=True)
    )
    return made


def lay(root: Path, files: Layout) -> list[Path]:
    paths = []
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


@pytest.mark.parametrize(("dataset", "layout"), CASES)
def test_it_is_found_where_another_library_keeps_it(tmp_path, dataset, layout):
    paths = lay(tmp_path, layout(TRAIN, TEST))
    data_dir = tmp_path / "data"
    found, _ = small(dataset).files[0].search(data_dir / dataset.name)
    assert found and found.path.samefile(paths[0])
    splits = small(dataset).load(data_dir)
    assert splits.published
    np.testing.assert_array_equal(np.concatenate([splits.train, splits.val]), TRAIN.reshape(-1, 784))
    np.testing.assert_array_equal(splits.test, TEST.reshape(-1, 784))
    for path in paths:
        path.unlink()
    if found.converted:  # once is enough
        assert (data_dir / dataset.name / FILES["train"]).read_bytes() == idx(TRAIN)
        assert small(dataset).load(data_dir).published
    else:
        assert not list(data_dir.rglob("*ubyte*")), "nothing was copied"


@pytest.mark.parametrize("layout", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [("a pixel", "expected content of sha256:"), ("cut", "expected "), ("another file", "expected ")],
)
def test_what_is_not_the_published_content_is_no_copy(tmp_path, layout, spoil, expected):
    changed = TRAIN.copy()
    changed[3, 4, 5] ^= 1
    files = layout(changed if spoil == "a pixel" else TRAIN, TEST)
    if spoil == "cut":
        files = {name: content[: len(content) // 2] for name, content in files.items()}
    elif spoil == "another file":
        files = dict.fromkeys(files, b"<html>no such page</html>")
    path = lay(tmp_path, files)[0]
    with pytest.raises(UserError) as raised:
        small(MNIST).load(tmp_path / "data")
    assert f"{path}: {expected}" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "data" / "mnist").exists(), "nothing is kept of it"


def test_a_damaged_copy_is_no_obstacle_to_a_good_one(tmp_path):
    lay(tmp_path, {name: content[:-9] for name, content in MNIST_LAYOUTS["torchvision"](TRAIN, TEST).items()})
    lay(tmp_path, MNIST_LAYOUTS["Keras"](TRAIN, TEST))
    assert small(MNIST).load(tmp_path / "data").published


def test_where_libraries_were_told_to_keep_it(tmp_path, monkeypatch):
    for variable, path, layout in (
        ("KERAS_HOME", "datasets/mnist.npz", keras),
        ("SCIKIT_LEARN_DATA", "openml/openml.org/data/v1/download/52667.gz", openml),
    ):
        (copy,) = lay(tmp_path, layout(f"{variable}/{path}")(TRAIN, TEST))
        monkeypatch.setenv(variable, str(tmp_path / variable))
        found, _ = small(MNIST).files[0].search(tmp_path / "data" / "mnist")
        assert found and found.path == copy
        copy.unlink()
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_parquet_without_its_reader_is_named_with_the_remedy(tmp_path, monkeypatch, variable):
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub/", "XDG_CACHE_HOME": "huggingface/hub/"}[variable]
    monkeypatch.setenv(variable, str(tmp_path / "there"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    snapshot = f"there/{below}datasets--ylecun--mnist/snapshots/77f3/mnist"
    (path,) = lay(tmp_path, {f"{snapshot}/train-00000-of-00001.parquet": b"PAR1"})
    with pytest.raises(UserError) as raised:
        small(MNIST).load(tmp_path / "data")
    assert f"{path}: expected pyarrow to be installed (pip install pyarrow)" in str(raised.value)


def test_a_data_directory_that_cannot_be_written_keeps_nothing(tmp_path):
    lay(tmp_path, MNIST_LAYOUTS["Keras"](TRAIN, TEST))
    (tmp_path / "blocked").write_text("a file where a directory should be")
    assert small(MNIST).load(tmp_path / "blocked").published


def test_the_published_images_in_kerass_format(real_data, tmp_path):
    splits = MNIST().load(real_data)
    arrays = {"x_train": np.concatenate([splits.train, splits.val]), "x_test": splits.test}
    (tmp_path / "data" / "mnist.npz").write_bytes(npz(**{n: a.reshape(-1, 28, 28) for n, a in arrays.items()}))
    assert MNIST().load(tmp_path / "data").published
