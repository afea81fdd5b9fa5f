"""Files that are no data set: each is refused in one line that names it, in little memory, with nothing written."""

import dataclasses
import gzip
import importlib.util
import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import Mirror, amat, arff, csv, idx, images, mat, npz, parquet, serve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy
from scipy.io import savemat

from iwae_lab.console.errors import UserError
from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.download import LIMIT, DataFile
from iwae_lab.data.mnist import MNIST
from iwae_lab.data.mnist_5k import MNIST5k
from iwae_lab.data.npz import NPZ
from iwae_lab.data.omniglot import Omniglot
from iwae_lab.data.static_mnist import StaticMNIST

GREY = images(4)
NAMES = "expected the arrays train, test and at most one of val, valid and validation, found "


class Mine(Dataset):
    """A dataset of a user's own, whose `split` gives these arrays."""

    name = "mine"

    def __init__(self, **arrays: object) -> None:
        super().__init__()
        self.arrays = (
            {name: images(4).reshape(4, -1) for name in ("train", "val", "test")} | {"shape": (28, 28)} | arrays
        )

    def parse(self, data: bytes) -> object:
        raise NotImplementedError

    def split(self, *arrays: object) -> Splits:
        return Splits(**self.arrays)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (
            {"train": GREY.reshape(4, -1) / 255},
            "train as uint8 [images, 784], at least 2 images, found float64 [4, 784]",
        ),
        ({"train": GREY.reshape(4, -1).astype(int)}, "found int64 [4, 784]"),
        ({"val": GREY}, "val as uint8 [images, 784], at least 2 images, found uint8 [4, 28, 28]"),
        ({"test": GREY.reshape(4, -1)[:1]}, "test as uint8 [images, 784], at least 2 images, found uint8 [1, 784]"),
        ({"test": None}, "found NoneType"),
        ({"val": []}, "found list"),
        ({"shape": (28, 14)}, "train as uint8 [images, 392], at least 2 images, found uint8 [4, 784]"),
    ],
)
def test_a_split_of_another_kind_is_refused(wrong: dict[str, object], found: str, tmp_path: Path) -> None:
    assert Mine().load(tmp_path).train.shape == (4, 784)
    with pytest.raises(UserError) as raised:
        Mine(**wrong).load(tmp_path)
    assert str(raised.value).startswith("dataset=mine: expected ") and str(raised.value).endswith(found)


def zipped(**members: bytes) -> bytes:
    """An archive of members that are not arrays made by numpy."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """The beginning of a .npy file, with no array behind it."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO(npz(train=GREY, test=GREY))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train.npy", b"")
    return file.getvalue()


def matlab(**arrays: object) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def replaced(array: np.ndarray, value: float) -> np.ndarray:
    changed = array / 255
    changed[2, 3, 4] = value
    return changed


BAD_ARRAYS = {  # what is in the .npz -> what is said
    "val and valid": (npz(train=GREY, val=GREY, valid=GREY, test=GREY), NAMES + "train, val, valid, test"),
    "unknown": (npz(train=GREY, test=GREY, extra=GREY), NAMES + "train, test, extra"),
    "misspelt": (npz(train=GREY, tset=GREY), NAMES + "train, tset"),
    "capitals": (npz(Train=GREY, Test=GREY), NAMES + "Train, Test"),
    "x_train and train": (npz(train=GREY, x_train=GREY, test=GREY), NAMES + "train, x_train, test"),
    "labels alone": (npz(y_train=np.zeros(4), y_test=np.zeros(4)), NAMES + "y_train, y_test"),
    "nameless arrays": (npz(arr_0=GREY, arr_1=GREY), NAMES + "arr_0, arr_1"),
    "train twice": (twice(), NAMES + "train, test, train"),
    "empty": (npz(), NAMES + "none"),
    "many": (npz(**{f"a{i}": GREY[:1, :1] for i in range(50)}), NAMES + "a0, a1, a2, a3, a4, a5, a6, a7 and 42 more"),
    "a path": (zipped(**{"../../train": b"", "/test": b""}), NAMES + "../../train, /test"),
    "escape codes": (zipped(**{"\x1b[2Jtrain": b""}), NAMES + r"'\x1b[2Jtrain'"),
    "no suffix": (npz(train=GREY, test=GREY).replace(b"train.npy", b"train.txt"), NAMES + "train.txt, test"),
    "one NaN": (npz(train=replaced(GREY, np.nan), test=GREY), "train: expected floats in [0, 1], found NaN"),
    "one inf": (npz(train=GREY, test=replaced(GREY, np.inf)), "test: expected floats in [0, 1], found 0 to inf"),
    "one -inf": (npz(train=GREY, test=replaced(GREY, -np.inf)), "test: expected floats in [0, 1], found -inf to 1"),
    "below 0": (npz(train=GREY, test=replaced(GREY, -0.5)), "test: expected floats in [0, 1], found -0.5 to 1"),
    "above 1": (npz(train=GREY, test=replaced(GREY, 1.5)), "test: expected floats in [0, 1], found 0 to 1.5"),
    "half precision": (npz(train=GREY, test=GREY.astype(np.float16)), "test: expected floats in [0, 1], found 0 to"),
    "a NaN in val": (npz(train=GREY, valid=replaced(GREY, np.nan), test=GREY), "valid: expected floats in [0, 1]"),
    "int64": (npz(train=GREY.astype(int), test=GREY), "train: expected uint8, bool or floats in [0, 1], found int64"),
    "complex": (npz(train=GREY * 1j, test=GREY), "train: expected uint8, bool or floats in [0, 1], found complex"),
    "text": (npz(train=GREY.astype(str), test=GREY), "train: expected uint8, bool or floats in [0, 1], found <U"),
    "dates": (npz(train=GREY.astype("M8[s]"), test=GREY), "train: expected uint8, bool or floats in [0, 1], found"),
    "records": (npz(train=GREY.view([("v", "u1")]), test=GREY), "train: expected uint8, bool or floats in [0, 1]"),
    "objects": (npz(train=GREY.astype(object), test=GREY), "train: expected numbers, found Python objects"),
    "one image": (npz(train=GREY[:1], test=GREY), "train: expected at least 2 images"),
    "nothing to validate on": (npz(train=GREY[:3], test=GREY), "expected val, or at least 4 images in train, found 3"),
    "a scalar": (npz(train=np.float32(0.5), test=GREY), "train: expected one or more images, [images"),
    "colours": (npz(train=GREY[..., None], test=GREY), "train: expected one or more images, [images, height, width]"),
    "no images": (npz(train=GREY[:0], test=GREY), "train: expected one or more images, [images, height, width]"),
    "no pixels": (npz(train=GREY[:, :0], test=GREY), "train: expected one or more images, [images, height, width]"),
    "not square": (npz(train=GREY.reshape(4, -1)[:, :50], test=GREY), "train: expected one or more images, [images"),
    "two sizes": (npz(train=GREY, val=GREY[:, :5], test=GREY), "expected images of one size, found "),
    "cut": (npz(train=GREY, test=GREY)[:-30], "expected an intact .npz file (File is not a zip file)"),
    "a .npy file": (header((4, 28, 28)) + GREY.tobytes(), "expected an intact .npz file (File is not a zip file)"),
    "a pickle": (b"\x80\x04N.", "expected an intact .npz file (File is not a zip file)"),
    "nothing": (b"", "expected an intact .npz file (File is not a zip file)"),
    "a web page": (b"<html></html>", "expected an intact .npz file (File is not a zip file)"),
    "no arrays": (zipped(train=b"text", test=b""), "expected an intact .npz file ("),
    "huge": (zipped(train=header((10**10, 28, 28)), test=b""), f"train: expected an array of at most {LIMIT:,} bytes"),
    "less than its shape": (zipped(train=header((9, 28, 28)), test=b""), "train: expected 7,056 bytes, found 0"),
    "more than its shape": (zipped(train=header((1, 2, 2)) + bytes(9), test=b""), "train: expected 4 bytes, found 9"),
    "negative": (zipped(train=header((-4, 28, 28)), test=b""), "train: expected "),
}  # fmt: skip

BAD_MATLAB = {
    "NaN": (mat(data=GREY, testdata=GREY * np.nan), "expected floats in [0, 1], found NaN"),
    "text": (matlab(data="words", testdata=np.eye(784)), "data: expected numbers, found char"),
    "cells": (matlab(data=np.array([1, "a"], object), testdata=np.eye(784)), "data: expected numbers, found cell"),
    "three axes": (matlab(data=np.zeros((784, 2, 2)), testdata=np.eye(784)), "data: expected 784 pixels × images"),
    "rows": (matlab(data=np.zeros((9, 784)), testdata=np.eye(784)), "data: expected 784 pixels × images, found [9"),
    "whole numbers": (matlab(data=np.eye(784, dtype="i4"), testdata=np.eye(784)), "data: expected numbers, found int"),
}  # fmt: skip


def refusal(dataset: Dataset, data_dir: Path) -> str:
    """What is said; nothing may have been written."""
    before = sorted(data_dir.rglob("*"))
    with pytest.raises(UserError) as raised:
        dataset.load(data_dir)
    assert sorted(data_dir.rglob("*")) == before
    return str(raised.value)


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_are_no_images(tmp_path, name):
    data, expected = BAD_ARRAYS[name]
    path = tmp_path / "mine.npz"
    path.write_bytes(data)
    text = refusal(NPZ(str(path)), tmp_path)
    assert text.startswith(f"{path}: {expected}")
    assert text.isprintable()
    assert len(text) < 400


@pytest.mark.parametrize("name", BAD_MATLAB)
def test_matlab_files_that_hold_no_images(name):
    data, expected = BAD_MATLAB[name]
    with pytest.raises(ValueError) as raised:
        Omniglot().parse(data)
    assert str(raised.value).startswith(expected)


@pytest.mark.parametrize("split", ["val", "valid", "validation", "x_val"])
def test_validation_images_have_three_names_and_are_never_ignored(tmp_path, split):
    (tmp_path / "mine.npz").write_bytes(npz(test=images(3, seed=2), **{split: images(5, seed=1)}, train=GREY))
    splits = NPZ("mine.npz").load(tmp_path)
    for array, expected in ((splits.train, GREY), (splits.val, images(5, seed=1)), (splits.test, images(3, seed=2))):
        np.testing.assert_array_equal(array, expected.reshape(-1, 784))


def test_kerass_names_are_read_and_its_labels_are_not(tmp_path):
    labels = np.array([None] * 4)  # could not be read
    (tmp_path / "mine.npz").write_bytes(npz(x_test=images(3), x_train=images(20), y_train=labels, y_test=labels))
    splits = NPZ("mine.npz").load(tmp_path)
    np.testing.assert_array_equal(splits.test, images(3).reshape(3, 784))
    np.testing.assert_array_equal(np.concatenate([splits.train, splits.val]), images(20).reshape(20, 784))


_from_keras, _from_parquet, _from_arff = (copies.unpack for copies in MNIST.files[0].copies if copies.unpack)
WHOLE = {
    "npz": (NPZ("f").parse, npz(train=GREY, test=GREY)),
    "idx": (MNIST().parse, idx(GREY)),
    "amat": (StaticMNIST().parse, amat(GREY // 128)),
    "mat": (Omniglot().parse, mat(data=GREY, testdata=GREY)),
    "csv": (MNIST5k().parse, csv(1)),
    "Keras": (_from_keras, npz(x_train=GREY, x_test=GREY)),
    "ARFF": (_from_arff, arff(GREY, GREY)),
    "Parquet": (_from_parquet, parquet(GREY) if importlib.util.find_spec("pyarrow") else b"PAR1"),
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("name", WHOLE)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_damaged_is_read_or_refused_with_a_value_error(name, data):
    """Cut, flipped, inserted and repeated bytes: no other exception leaves a parser."""
    parse, whole = WHOLE[name]
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        if data.draw(st.booleans()):  # where headers are
            at = min(at, data.draw(st.integers(0, 300)))
        kind = data.draw(st.sampled_from(["cut", "flip", "insert", "repeat"]))
        if kind == "cut":
            del damaged[at:]
        elif kind == "flip" and at < len(damaged):
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            damaged[at:at] = damaged[at : at + 200]
    try:
        parse(bytes(damaged))
    except ValueError as error:
        assert str(error)


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("name", WHOLE)
@given(st.binary(max_size=300))
@example(b"PK\x05\x06" + bytes(18))
@example(b"\0\0\x08\xff")
@example(b"MATLAB 5.0".ljust(124) + b"\0\1IM")
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_read_or_refused_with_a_value_error(name, content):
    parse, _ = WHOLE[name]
    try:
        parse(content)
    except ValueError as error:
        assert str(error)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(bytes(400_000_000), 1))
    tracemalloc.start()
    found, problems = MNIST().files[0].search(path.parent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is None
    assert f"{path}: expected at most 47,040,016 bytes, found more" in problems
    assert peak < 100_000_000


def test_a_file_larger_than_its_limit_is_not_read(tmp_path):
    path = tmp_path / "mine.npz"
    with path.open("wb") as sparse:
        sparse.truncate(LIMIT + 1)
    assert refusal(NPZ(str(path)), tmp_path).endswith(f"; found: {path}: expected at most {LIMIT:,} bytes, found more")


def test_a_mirror_that_sends_without_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Mirror({"digits.bin": bytes(100_000)})) as mirror, pytest.raises(UserError, match="at most 1,000 bytes"):
        DataFile("digits.bin", "sha256:0", (mirror.url,), limit=1000).read(tmp_path / "digits")
    assert [path.name for path in (tmp_path / "digits").iterdir()] == [".digits.bin.lock"]


@pytest.mark.parametrize("published", [100, 1_000_000])
def test_a_file_of_exactly_its_limit_is_read_to_its_checksum(tmp_path, published):
    content = bytes(published)
    whole = gzip.compress(content)
    spoilt = bytearray(whole)
    spoilt[-6] ^= 1  # in the checksum
    file = DataFile("digits.gz", limit=published)
    (tmp_path / "digits.gz").write_bytes(whole)
    assert file.read(tmp_path).data == content
    (tmp_path / "digits.gz").write_bytes(spoilt)
    with pytest.raises(UserError, match="expected a file that can be read to its end"):
        file.read(tmp_path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "path=: expected the path of a .npz file"),
        ("a\0b", "expected the path of a .npz file"),
        ("none.npz", "none.npz: expected in one of ., "),
        ("folder", "folder: expected a file, found a folder"),
        ("a" * 300, "File name too long"),
        ("~no-such-user/mine.npz", "~no-such-user/mine.npz: expected in one of"),
    ],
)
def test_paths_without_a_file(tmp_path, monkeypatch, path, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError) as raised:
        NPZ(path).load(tmp_path)
    assert expected in str(raised.value)


def test_only_the_file_that_was_named_is_taken(tmp_path, monkeypatch):
    """A file of the same name in the data directory is another file, and nothing outside it is reached from there."""
    data_dir = tmp_path / "data"
    for folder in ("data", "cwd", "data/sub"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for folder in (data_dir, tmp_path):
        (folder / "mine.npz").write_bytes(npz(train=GREY, test=GREY))
    assert "mine.npz: expected a file" in refusal(NPZ(str(tmp_path / "none" / "mine.npz")), data_dir)
    assert "expected in one of" in refusal(NPZ("none/mine.npz"), data_dir)
    (tmp_path / "mine.npz").rename(tmp_path / "outside.npz")
    monkeypatch.chdir(tmp_path / "data" / "sub")
    assert "outside.npz: expected a file" in refusal(NPZ("../outside.npz"), data_dir)  # it is beside data_dir
    assert NPZ("mine.npz").load(data_dir).shape == (28, 28)


def test_home_is_understood_in_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.npz").write_bytes(npz(train=GREY, test=GREY))
    assert NPZ("~/mine.npz").load(tmp_path / "data").shape == (28, 28)


def test_a_files_name_stays_in_the_data_directory(tmp_path):
    """No shipped dataset names a file with a path; only `dataset.path`, which is the user's own, may be one."""
    for dataset in (MNIST, StaticMNIST, Omniglot, MNIST5k):
        for file in dataset.files:
            assert Path(file.name).name == file.name
            missing = dataclasses.replace(file, mirrors=(), places=(), copies=())
            with pytest.raises(UserError):
                missing.read(tmp_path / dataset.name)
    assert list(tmp_path.iterdir()) == []


def test_a_command_on_a_bad_file_ends_with_one_line(cli, tiny, tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(BAD_ARRAYS["val and valid"][0])
    done = cli("train.py", *tiny, "dataset=npz", f"dataset.path={path}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {path}: {BAD_ARRAYS['val and valid'][1]}"]
    assert not (tmp_path / "runs").exists()
