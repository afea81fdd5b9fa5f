"""Every dataset gives the images its files hold, split and upright; what is no such file is refused."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.datasets import amat, csv, idx, images, mat, npz, small_dataset
from omegaconf.errors import OmegaConfBaseException
from scipy.io import loadmat

from iwae_lab.console.errors import UserError
from iwae_lab.console.explain import explain
from iwae_lab.data.idx import parse_idx
from iwae_lab.data.mnist import MNIST
from iwae_lab.data.mnist_5k import MNIST5k
from iwae_lab.data.npz import NPZ
from iwae_lab.data.omniglot import Omniglot
from iwae_lab.data.protocol import content_hash, prepare
from iwae_lab.data.static_mnist import StaticMNIST
from iwae_lab.runs.config import CONF, check
from iwae_lab.runs.run import run

NAMES = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))

EXPECTED = {  # all training and validation images in the order of the file, test images, sizes
    "fashion_mnist": (images(450), images(20, seed=1), (50, 400, 20)),
    "mnist": (images(450), images(20, seed=1), (50, 400, 20)),
    "static_mnist": (images(30)[:25] // 128 * 255, images(30)[25:] // 128 * 255, (20, 5, 5)),
    "omniglot": (images(60), images(20, seed=1), (56, 4, 20)),
    "npz": (images(50), images(10, seed=1), (45, 5, 10)),
    "mnist_5k": (
        (images(5000) % 10).reshape(10, 500, 28, 28)[:, :450],
        (images(5000) % 10).reshape(10, 500, 28, 28)[:, 450:].transpose(1, 0, 2, 3),
        (4000, 500, 500),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_splits_hold_exactly_the_images_of_the_files(name, tmp_path):
    splits = small_dataset(name, tmp_path).load(tmp_path)
    training, test, sizes = EXPECTED[name]
    assert (len(splits.train), len(splits.val), len(splits.test)) == sizes
    assert splits.shape == (28, 28)
    assert splits.train.dtype == splits.val.dtype == splits.test.dtype == np.uint8
    np.testing.assert_array_equal(splits.test, test.reshape(-1, 784))
    held = np.concatenate([splits.train, splits.val])
    assert sorted(map(bytes, held)) == sorted(map(bytes, training.reshape(-1, 784)))
    again = small_dataset(name, tmp_path).load(tmp_path)
    assert content_hash(again) == content_hash(splits)


def test_static_mnist_keeps_packed_copies_that_hold_the_published_content(tmp_path):
    dataset = small_dataset("static_mnist", tmp_path)
    expected = content_hash(dataset.load(tmp_path))
    texts = sorted((tmp_path / "static_mnist").glob("*.amat"))
    packed = sorted((tmp_path / "static_mnist").glob("*.amat.packed"))
    assert [path.stat().st_size * 16 for path in packed] == [path.stat().st_size for path in texts]
    for text in texts:
        text.rename(text.with_suffix(".away"))
    assert content_hash(dataset.load(tmp_path)) == expected, "the packed copies are enough"
    damaged = bytearray(packed[0].read_bytes())
    damaged[0] ^= 1
    packed[0].write_bytes(damaged)
    with pytest.raises(UserError, match=r"amat.packed: expected content of sha256"):
        dataset.load(tmp_path)
    for text in texts:
        text.with_suffix(".away").rename(text)
    assert content_hash(dataset.load(tmp_path)) == expected, "the file stands in for its damaged copy"


@pytest.mark.parametrize(
    ("dataset", "data", "found"),
    [
        (MNIST(), b"", "expected an IDX file"),
        (MNIST(), b"\0\0\x0d" + idx(images(3))[3:], "found 00 00 0d 03"),
        (MNIST(), idx(images(3))[:-1], "expected 2,368 bytes for shape [3, 28, 28], found 2,367"),
        (MNIST(), idx(images(3, side=32)), "expected images of 28×28, found an array of [3, 32, 32]"),
        (MNIST(), idx(np.zeros(3, np.uint8)), "found an array of [3]"),
        (StaticMNIST(), amat(images(3) // 128)[:-2], "expected lines of 1568 bytes, found 4,702 bytes"),
        (StaticMNIST(), amat(images(3) // 128).replace(b"1", b"2", 1), "expected pixels 0 or 1"),
        (Omniglot(), b"junk" * 100, "expected an intact MATLAB file"),
        (Omniglot(), mat(data=images(30), testdata=images(20))[:30000], "expected an intact MATLAB file"),
        (Omniglot(), b"MATLAB 7.3".ljust(124) + b"\0\2IM" + bytes(400), "expected an intact MATLAB file"),  # HDF5
        (Omniglot(), mat(data=images(3)), "with the keys data and testdata, found data"),
        (Omniglot(), mat(data=images(3), testdata=images(3, side=20)), "expected 784 pixels × images, found [400, 3]"),
        (Omniglot(), mat(data=images(3), testdata=images(3) * 2.0), "expected floats in [0, 1], found 0 to 2"),
        (MNIST5k(), csv(3), "expected 5,000 rows of 785, found (30, 785)"),
        (NPZ("f"), b"junk", "expected an intact .npz file"),
        (NPZ("f"), npz(train=images(3), test=images(3))[:-100], "expected an intact .npz file"),
        (NPZ("f"), npz(train=images(3)), "validation, found train"),
        (NPZ("f"), npz(train=images(3), test=images(3, side=5)), "expected images of one size"),
        (
            NPZ("f"),
            npz(train=images(3), test=images(3).reshape(3, 56, 14)[:, 0, :5]),
            "test: expected one or more images, [images, height",
        ),
        (NPZ("f"), npz(train=images(1), test=images(3)), "train: expected at least 2 images, found 1"),
        (NPZ("f"), npz(train=images(3) // 128, test=images(3)), "train: expected grey levels 0 to 255, found none"),
        (NPZ("f"), npz(train=images(3), test=images(3) / 1.0), "test: expected floats in [0, 1], found 0 to 255"),
        (NPZ("f"), npz(train=images(3), test=images(3) * np.nan), "test: expected floats in [0, 1], found NaN"),
        (NPZ("f"), npz(train=images(3), test=images(3).astype(int)), "test: expected uint8, bool or floats"),
        (NPZ("f"), npz(train=images(3), test=np.array([None] * 3)), "test: expected numbers, found Python objects"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_such_file_is_refused_with_what_was_expected(dataset, data, found):
    with pytest.raises(ValueError, match=re.escape(found)):
        dataset.parse(data)


def test_an_error_in_a_file_names_it(tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(npz(train=images(3)))
    with pytest.raises(UserError, match=re.escape(f"{path}: expected the arrays train, test and")):
        NPZ(str(path)).load(tmp_path)


@pytest.mark.parametrize(
    "represented",
    [
        lambda array: array,
        lambda array: (array / 255).astype(np.float32),
        lambda array: array.reshape(len(array), -1),
    ],
    ids=["levels", "probabilities", "flat"],
)
def test_npz_arrays_of_every_kind_hold_the_same_levels(tmp_path, represented):
    path = tmp_path / "mine.npz"
    parts = {name: images(5, side=6, seed=seed) for seed, name in enumerate(("train", "val", "test"))}
    path.write_bytes(npz(**{name: represented(array) for name, array in parts.items()}))
    splits = NPZ("mine.npz").load(tmp_path)
    assert splits.shape == (6, 6)
    for name, array in parts.items():
        np.testing.assert_array_equal(getattr(splits, name), array.reshape(5, 36))


def test_npz_of_binary_images_that_are_not_square(tmp_path):
    binary = images(20) > 127
    path = tmp_path / "mine.npz"
    path.write_bytes(npz(train=binary[:10, :5, :9], test=binary[10:, :5, :9]))
    data = prepare(NPZ(str(path), "static"), tmp_path, k=50, images=None)
    assert data.shape == (5, 9)
    np.testing.assert_array_equal(data.test, binary[10:, :5, :9].reshape(10, 45))
    np.testing.assert_array_equal(data.train, 255 * binary[:8, :5, :9].reshape(8, 45))


def test_mnist_is_the_known_one(real_data):
    splits = MNIST().load(real_data)
    assert splits.published
    assert (len(splits.train), len(splits.val), len(splits.test)) == (59_600, 400, 10_000)
    both = np.concatenate([splits.train, splits.val])
    assert both.mean() / 255 == pytest.approx(0.13066, abs=5e-6)
    assert both.std() / 255 == pytest.approx(0.30811, abs=5e-6)
    assert content_hash(splits) == "0b370899"
    labels = parse_idx(gzip.decompress((real_data / "mnist" / "train-labels-idx1-ubyte.gz").read_bytes()))
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    ones, zeros = (both[labels == digit].reshape(-1, 28, 28).mean(0) for digit in (1, 0))
    assert ones[14, 14] > 150 > 20 > zeros[14, 14]  # a stroke through the middle, and a hole


def test_mnist_5k_is_the_known_one(tmp_path):
    splits = MNIST5k().load(tmp_path)
    assert splits.published
    assert content_hash(splits) == "860d9193"
    ones, zeros = (splits.train[digit::10].reshape(-1, 28, 28).mean(0) for digit in (1, 0))
    assert ones[14, 14] > 150 > 20 > zeros[14, 14]  # classes alternate


def test_omniglot_is_upright(real_data):
    """In the real-layout file, handwritten i and l are tall, and Devanagari hangs from a line at the top."""
    test = Omniglot().load(real_data).test.reshape(-1, 28, 28).astype(float)
    labels = loadmat(real_data / "omniglot" / "chardata.mat")
    if labels["testtarget"].shape != (8, 1210):
        pytest.skip("needs the small file of eight alphabets, whose order is known")
    alphabet, character = labels["testtarget"].argmax(0), labels["testtargetchar"][0]
    i_and_l = test[(alphabet == 5) & np.isin(character, (9, 12))].mean(0)
    offsets = np.arange(28)

    def spread(mass: np.ndarray) -> float:
        centre = (mass * offsets).sum() / mass.sum()
        return (mass * (offsets - centre) ** 2).sum() / mass.sum()

    assert spread(i_and_l.sum(1)) > 4 * spread(i_and_l.sum(0))
    devanagari = test[alphabet == 6].mean(0).sum(1)
    assert devanagari[4:9].sum() > 1.3 * devanagari[19:24].sum()


def test_command_lists_what_is_present_missing_and_unusable(cli, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images(3))))
    (tmp_path / "chardata.mat").write_bytes(mat(data=images(3), testdata=images(3)))
    listed = cli("-m", "iwae_lab.data", "--data-dir", str(tmp_path))
    assert listed.returncode == 0
    lines = {tuple(line.split()[:2]): line for line in listed.stdout.splitlines()}
    assert "present: " in lines["mnist_5k", "mnist_5k.csv.gz"]
    assert lines["mnist", "train-images-idx3-ubyte.gz"].endswith(" missing")
    assert " unusable: " in lines["mnist", "t10k-images-idx3-ubyte.gz"]
    assert lines["omniglot", "chardata.mat"].endswith(f"present, not the published file: {tmp_path}/chardata.mat")
    assert listed.stdout.splitlines()[-1].startswith("fetch with: python -m iwae_lab.data --data-dir")
    assert {name for name, _ in lines} >= set(NAMES)


def test_command_fetches_and_refuses(cli, tmp_path):
    fetched = cli("-m", "iwae_lab.data", "--data-dir", str(tmp_path), "fetch", "mnist_5k")
    assert fetched.returncode == 0
    assert Path(fetched.stdout.split()[-1]).is_file()
    refused = cli("-m", "iwae_lab.data", "--data-dir", str(tmp_path), "fetch", "mnis")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: fetch mnis: no such dataset (did you mean mnist?); expected one of ")
    assert len(refused.stderr.splitlines()) == 1


def test_a_run_on_images_of_ones_own(composed, tiny, tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(npz(train=images(40)[:, :4, :6], test=images(8)[:, :4, :6]))
    record = run(composed(*tiny, "dataset=npz", f"dataset.path={path}", "evaluation.images=null"))
    assert record.status == "finished"
    assert re.fullmatch(r"npz#[0-9a-f]{8}/dynamic 36/4/8 L_20", record.protocol)


def test_a_path_that_was_not_given_is_asked_for(composed):
    with pytest.raises(OmegaConfBaseException) as raised:
        check(composed("dataset=npz"))
    assert explain(raised.value) == "dataset.path is missing: expected dataset.path=VALUE"
