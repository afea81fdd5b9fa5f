"""Training images in memory, and batches of them."""

from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor

from iwae_lab.data.binarize import resample

__all__ = ["Batches", "ImageData"]


class Batches:
    """Freshly binarized batches of images that stay on their device; one iteration is an epoch.

    images: grey levels, uint8 [images, pixels]. shuffle: whether each epoch takes the images in a new random order.
    stack: the number of models; several get images in orders of their own.
    Yields tuples of batches, float32 [batch, pixels] or [models, batch, pixels]: as many batches as fit into `TOGETHER`
    images, and at least one. The last batch of an epoch may be smaller.
    """

    TOGETHER = 400  # images, since Lightning's loop costs a millisecond per item
    TOGETHER_ON_CUDA = 4000  # steps are shorter there

    def __init__(self, images: Tensor, batch_size: int, shuffle: bool = True, stack: int = 1) -> None:
        self.images = images
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.stack = stack
        self.batches = -(-len(images) // batch_size)
        self.together = max(1, (self.TOGETHER_ON_CUDA if images.is_cuda else self.TOGETHER) // batch_size)

    def __len__(self) -> int:
        return -(-self.batches // self.together)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        in_order = torch.randperm if self.shuffle else torch.arange
        orders = [in_order(len(self.images), device=self.images.device) for _ in range(self.stack)]
        order = torch.stack(orders) if self.stack > 1 else orders[0]
        for indices in order.split(self.batch_size * self.together, dim=-1):
            parts = indices.split(self.batch_size, dim=-1)
            drawn = resample(self.images[torch.cat([part.flatten() for part in parts])])
            batches = drawn.split([part.numel() for part in parts])
            yield tuple(x.view(*part.shape, -1) for x, part in zip(batches, parts, strict=True))


class ImageData(pl.LightningDataModule):
    """Training images and the binarized validation images, moved to the device once.

    train: grey levels, uint8 [images, pixels]. val: 0/1, uint8 [images, pixels]. shape: their height and width. The
    others: see `Batches`.
    """

    def __init__(
        self,
        train: Tensor,
        val: Tensor,
        shape: tuple[int, int],
        batch_size: int,
        shuffle: bool = True,
        stack: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.shape = shape
        self.batch_size, self.shuffle, self.stack = batch_size, shuffle, stack

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device  # type: ignore[union-attr]
        self.train, self.val = self.train.to(device), self.val.to(device)

    def train_dataloader(self) -> Batches:
        return Batches(self.train, self.batch_size, self.shuffle, self.stack)
