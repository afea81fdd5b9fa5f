"""The data of a run as its protocol has it: what is trained on, what is tested on, and the protocol's name."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iwae_lab.data.base import Dataset
from iwae_lab.data.binarize import draw_once

__all__ = ["Data", "prepare"]

VALID_SEED, TEST_SEED = 1, 2  # of the one binary draw of each set


@dataclass(frozen=True)
class Data:
    """Sets of flat images on the CPU."""

    train: Tensor
    """grey levels, uint8 [images, pixels]"""
    valid: Tensor
    """one binary draw, uint8 [images, pixels]"""
    test: Tensor
    """one binary draw, uint8 [images, pixels]"""
    shape: tuple[int, int]
    """height and width"""
    protocol: str
    """what must agree for results to be comparable"""

    def mean_image(self) -> Tensor:
        """Mean training pixels in [0, 1], float32 [pixels]."""
        return self.train.float().mean(0) / 255


def prepare(dataset: Dataset, data_dir: Path, k: int, images: int | None) -> Data:
    """Load a dataset and make its draws; test on the first `images` images with k samples each."""
    splits = dataset.load(data_dir)
    test = torch.from_numpy(draw_once(splits.test, TEST_SEED))[:images]
    sizes = f"{len(splits.train)}/{len(splits.valid)}/{len(test)}"
    return Data(
        torch.from_numpy(splits.train.copy()),
        torch.from_numpy(draw_once(splits.valid, VALID_SEED)),
        test,
        splits.shape,
        f"{dataset.name}/{dataset.binarization} {sizes} L_{k}",
    )
