"""Results of an interrupted evaluation, kept so that they are not computed again."""

import hashlib
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Kept", "Part"]

Kept = MutableMapping[str, tuple[Any, ...]]
"""Results so far, by a hash of all they depend on. The caller decides whether they outlive the process; a dictionary
will do."""


class Part:
    """One part of an evaluation: of a model, on images [images, pixels], with settings and further tensors.

    kept: where earlier results of this very part are looked up and new ones stored; None stores nothing.
    """

    def __init__(self, kept: Kept | None, model: nn.Module, images: Tensor, *settings: object) -> None:
        self.kept: Kept = {} if kept is None else kept
        self.key = "" if kept is None else _digest(model, images, *settings)

    def restored(self) -> tuple[Any, ...] | None:
        """The last values given to `keep`."""
        return self.kept.get(self.key)

    def keep(self, *results: Any) -> None:
        """Replace what was kept by these tensors, numbers and strings, which must not change afterwards."""
        self.kept[self.key] = results


def _digest(model: nn.Module, images: Tensor, *settings: object) -> str:
    digest = hashlib.sha256(repr((torch.__version__, images.device.type, model)).encode())
    for value in (*model.state_dict().values(), images, *settings):
        if isinstance(value, Tensor):
            digest.update(repr((value.dtype, value.shape)).encode() + b"\0")
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(repr(value).encode() + b"\0")
    return digest.hexdigest()
