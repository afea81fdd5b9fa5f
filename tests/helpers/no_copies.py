"""A device without values, and finding copies to and from it."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")


class NoCopies(TorchDispatchMode):
    """Fails where an operation has tensors of the host and of the device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        found = {leaf.device.type for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)}
        assert len(found) <= 1, f"{function} has tensors on {found}"
        return made
