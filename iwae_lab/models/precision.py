"""The precision of matrix products in training. Torch only."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["PRECISIONS", "autocast", "fastest_precision", "products_for_training"]

PRECISIONS = ("32", "bf16")

HARMLESS_K = 5  # samples; with 50, training in bf16 cost 0.09 ± 0.03 nats in one comparison, 0.01 ± 0.04 in another
REPAYING_ROWS = 200  # of a product; with fewer, converting to bf16 on a CPU costs what it saves


def fastest_precision(device: torch.device, batch_size: int, k: int) -> str:
    """bf16 where it is harmless, the hardware has it and products of batch_size × k rows repay it; else 32.

    It is not timed, so a repeated run gets the same precision on a busy machine.
    """
    if k > HARMLESS_K:
        return "32"
    if device.type == "cuda":
        repays = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        repays = torch.cpu._is_avx512_bf16_supported() and batch_size * k >= REPAYING_ROWS
    return "bf16" if repays else "32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context for matrix products in bf16, or with precision="32" in the weights' own."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    # in torch 2.6 the cache gives weights that were converted under no_grad to a pass that needs their gradient
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


@contextlib.contextmanager
def products_for_training(device: torch.device) -> Iterator[None]:
    """A context in which CUDA multiplies fp32 matrices in TF32; evaluation stays outside it, in fp32."""
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]  # products, convolutions
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = device.type == "cuda"
    try:
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed
