"""Runs share a protocol's name if and only if their results are comparable."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
import torch
from helpers.datasets import images, npz, small_dataset

from iwae_lab.console.errors import UserError
from iwae_lab.data.base import BINARIZATIONS
from iwae_lab.data.fashion_mnist import FashionMNIST
from iwae_lab.data.mnist import MNIST
from iwae_lab.data.mnist_5k import MNIST5k
from iwae_lab.data.npz import NPZ
from iwae_lab.data.omniglot import Omniglot
from iwae_lab.data.protocol import content_hash, prepare
from iwae_lab.data.static_mnist import StaticMNIST

OFFICIAL = {
    FashionMNIST: "fashion_mnist/dynamic",
    StaticMNIST: "mnist/larochelle",
    MNIST: "mnist/dynamic",
    MNIST5k: "mnist_5k/dynamic",
    Omniglot: "omniglot/burda",
}


@pytest.mark.parametrize("dataset", OFFICIAL)
def test_published_files_in_the_standard_setting_have_an_official_name(dataset, tmp_path):
    small = small_dataset(dataset.name, tmp_path)  # its files are made to count as published
    assert prepare(small, tmp_path, k=5000, images=None).protocol == OFFICIAL[dataset]
    assert prepare(small, tmp_path, k=5000, images=4).protocol != OFFICIAL[dataset]
    assert prepare(small, tmp_path, k=4999, images=None).protocol != OFFICIAL[dataset]
    small.files = tuple(dataclasses.replace(file, digest="sha256:0", exact=False) for file in small.files)
    assert prepare(small, tmp_path, k=5000, images=None).protocol != OFFICIAL[dataset]


def test_real_files_and_the_small_omniglot(real_data, tmp_path):
    assert prepare(MNIST5k(), tmp_path, 5000, None).protocol == "mnist_5k/dynamic"
    assert prepare(MNIST(), real_data, 5000, None).protocol == "mnist/dynamic"
    assert prepare(MNIST(), real_data, 50, 100).protocol == "mnist#0b370899/dynamic 59600/400/100 L_50"
    if not (omniglot := Omniglot().load(real_data)).published:
        protocol = f"omniglot#{content_hash(omniglot)}/dynamic 3429/201/1210 L_5000"
        assert prepare(Omniglot(), real_data, 5000, None).protocol == protocol


def test_what_makes_results_incomparable_shows_in_the_name(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz(train=images(30), test=images(8)))
    (tmp_path / "moved.npz").write_bytes(npz(train=images(30), test=images(8)))
    changed = images(30)
    changed[3, 4, 5] ^= 1
    (tmp_path / "pixel.npz").write_bytes(npz(train=changed, test=images(8)))
    (tmp_path / "split.npz").write_bytes(npz(train=images(30)[:20], val=images(30)[20:], test=images(8)))
    (tmp_path / "shape.npz").write_bytes(npz(train=images(30).reshape(30, 14, 56), test=images(8).reshape(8, 14, 56)))

    def name(path: str, binarization: str = "dynamic", k: int = 50, n: int | None = None) -> str:
        return prepare(NPZ(str(tmp_path / path), binarization), tmp_path, k, n).protocol

    assert name("a.npz") == name("a.npz") == name("moved.npz")
    names = [name(path) for path in ("a.npz", "pixel.npz", "split.npz", "shape.npz")]
    names += [name("a.npz", "static"), name("a.npz", "threshold"), name("a.npz", k=51), name("a.npz", n=7)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_draws_are_the_same_every_time_and_training_is_binary_unless_resampled(how, tmp_path):
    dataset = small_dataset("mnist", tmp_path)
    dataset.binarization = how
    torch.manual_seed(0)
    first = prepare(dataset, tmp_path, 50, None)
    torch.manual_seed(1)
    np.random.seed(1)
    second = prepare(dataset, tmp_path, 50, None)
    for name in ("train", "val", "test"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name))
    assert set(first.val.unique().tolist()) == set(first.test.unique().tolist()) == {0, 1}
    assert (set(first.train.unique().tolist()) == {0, 255}) == (how != "dynamic")
    torch.testing.assert_close(prepare(dataset, tmp_path, 50, 7).test, first.test[:7])
    torch.testing.assert_close(first.mean_image(), (first.train / 255.0).mean(0).view(first.shape))


def test_sets_are_drawn_independently(tmp_path):
    same = np.tile(np.uint8(128), (50, 28, 28))
    (tmp_path / "same.npz").write_bytes(npz(train=same, val=same, test=same))
    data = prepare(NPZ("same.npz", "static"), tmp_path, 50, None)
    for a, b in itertools.combinations((data.train // 255, data.val, data.test), 2):
        assert (a == b).float().mean() == pytest.approx(0.5, abs=0.02)


def test_draws_of_the_protocols_never_change(real_data, tmp_path):
    def digest(part: torch.Tensor) -> str:
        return hashlib.sha256(part.numpy().tobytes()).hexdigest()[:16]

    dynamic, static = (prepare(MNIST5k(how), tmp_path, 5000, None) for how in ("dynamic", "static"))
    assert [digest(p) for p in (dynamic.val, dynamic.test, static.train)] == [
        "bb05cc39dc3294fe",
        "d305d74230c318c2",
        "b431336537e339a8",
    ]
    assert digest(prepare(MNIST(), real_data, 5000, None).test) == "52c7e6388856fade"


def test_binarization_that_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(UserError, match="binarization=dynamic: expected static"):
        StaticMNIST("dynamic")
    with pytest.raises(UserError, match="binarization=sometimes: expected one of dynamic, static, threshold"):
        MNIST("sometimes")
    (tmp_path / "binary.npz").write_bytes(npz(train=images(30) > 127, test=images(8) > 127))
    with pytest.raises(UserError, match=r"dataset\.binarization=dynamic: expected static, as the images are binary"):
        NPZ("binary.npz").load(tmp_path)
