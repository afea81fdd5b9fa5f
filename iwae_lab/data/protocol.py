"""The data of a run under its protocol: what is trained on, what is tested on, and the protocol's name.

Two runs are comparable if and only if the names of their protocols are equal. An official protocol has a short
name: the published files in their standard split, the binarization of that name, all test images in their one
standard draw, and L_5000. Any other name spells out its settings and content.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iwae_lab.data.base import Dataset, Splits
from iwae_lab.data.binarize import binarize_once

__all__ = ["Data", "content_hash", "prepare"]

TRAIN_SEED, VAL_SEED, TEST_SEED = 0, 1, 2  # of the one binary draw of each set
OFFICIAL_K = 5000


@dataclass(frozen=True)
class Data:
    """Sets of flat images on the CPU."""

    train: Tensor
    """grey levels, uint8 [images, pixels]; only 0 and 255 unless they are resampled at each use"""
    val: Tensor
    """one binary draw, uint8 [images, pixels]"""
    test: Tensor
    """one binary draw, uint8 [images, pixels]"""
    shape: tuple[int, int]
    """height and width"""
    protocol: str
    """what must agree for results to be comparable"""
    content: str
    """hash of the images, before any draw"""
    whole_test: bool
    """whether all test images are tested"""

    def train_draw(self) -> Tensor:
        """One binary draw of the training images, uint8 [images, pixels]; the one trained on, if there is one."""
        return torch.from_numpy(binarize_once(self.train.numpy(), "static", TRAIN_SEED))

    def mean_image(self) -> Tensor:
        """Mean training pixels in [0, 1], float32 [height, width]."""
        return (self.train.float().mean(0) / 255).unflatten(0, self.shape)


def prepare(dataset: Dataset, data_dir: Path, k: int, images: int | None) -> Data:
    """Load a dataset and make its draws; test on the first `images` images with k samples each."""
    splits = dataset.load(data_dir)
    how = dataset.binarization
    train = splits.train if how == "dynamic" else 255 * binarize_once(splits.train, how, TRAIN_SEED)
    test = binarize_once(splits.test, how, TEST_SEED)[:images]
    content = content_hash(splits)
    return Data(
        torch.from_numpy(train.copy()),
        torch.from_numpy(binarize_once(splits.val, how, VAL_SEED)),
        torch.from_numpy(test),
        splits.shape,
        _name(dataset, splits, content, len(test), k),
        content,
        len(test) == len(splits.test),
    )


def _name(dataset: Dataset, splits: Splits, content: str, tested: int, k: int) -> str:
    official = dataset.official.get(dataset.binarization)
    if official and splits.published and tested == len(splits.test) and k == OFFICIAL_K:
        return official
    drawn = f"{dataset.name}#{content}/{dataset.binarization}"
    return f"{drawn} {len(splits.train)}/{len(splits.val)}/{tested} L_{k}"


def content_hash(splits: Splits) -> str:
    """Eight hex digits over the sets' sizes and every grey level in their order."""
    digest = hashlib.sha256(f"{splits.shape}".encode())
    for images in (splits.train, splits.val, splits.test):
        digest.update(f"{images.shape}".encode())
        digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:8]
