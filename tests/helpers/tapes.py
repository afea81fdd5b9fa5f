"""CUDA graphs without CUDA: a capture records operations, and a replay executes them again on the same tensors.

As on a GPU, capturing changes no value and draws no noise, reading a value on the host is an error, and what Python
computes during the capture (a number, a branch, a count) is the same in every replay.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iwae_lab.training.step import Step


class Tape(TorchDispatchMode):
    """Stands in for `torch.cuda.CUDAGraph`, and as a context for `torch.cuda.graph`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}  # and a copy of its values
        self.own: set[int] = set()  # storages that the capture made
        self.replays = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for key, tensor in _storages((args, kwargs)).items():
            if key not in self.own and key not in self.before:
                self.before[key] = tensor.untyped_storage(), tensor.untyped_storage().clone()
        made = function(*args, **(kwargs or {}))
        self.own |= _storages(made).keys() - self.before.keys()
        self.operations.append((function, args, kwargs or {}, made))
        return made

    def pool(self) -> None:
        return None

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, made in self.operations:
            given = _storages((args, kwargs))
            for old, new in zip(tree_leaves(made), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)


@contextlib.contextmanager
def tapes() -> Iterator[None]:
    """Replace what `iwae_lab` uses of CUDA graphs."""

    @contextlib.contextmanager
    def capture(tape: Tape, *_: Any) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]), tape:
            yield
        for storage, values in tape.before.values():
            storage.copy_(values)

    with (
        patch.multiple(torch.cuda, CUDAGraph=Tape, graph=capture, stream=contextlib.nullcontext),
        patch.multiple(torch.cuda, Stream=MagicMock, current_stream=MagicMock),
        patch.object(Tensor, "pin_memory", lambda tensor: tensor),
    ):
        yield


class Traced(Step):
    """Compiled code without a compiler: the operations that it is made of, one by one."""

    def compiled(self, x: Tensor) -> Any:
        graph, tensors = self.traced(x)
        return torch.no_grad()(lambda x, rate: graph(x, torch.tensor(rate), *tensors)[0])


def _storages(tree: Any) -> dict[int, Tensor]:
    return {leaf.untyped_storage().data_ptr(): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
