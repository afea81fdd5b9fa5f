"""In which arithmetic a device trains. Torch only."""

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Literal

import torch
from torch.nn import functional as F

__all__ = ["Precision", "autocast", "fastest_precision", "products_for_training"]

Precision = Literal["32", "bf16"]

HARMLESS_K = 5  # samples up to which training in bf16 ended at the NLL of fp32; with 50, 0.1 nats above


def fastest_precision(device: torch.device, batch_size: int, k: int) -> Precision:
    """bf16 where it is harmless and products of batch_size × k rows are faster in it here; else 32.

    On a CPU this is measured, in some ten milliseconds: some compute in bf16 several times faster than in fp32,
    some slower. Near equality it is 32.
    """
    if k > HARMLESS_K:
        return "32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "32"
    h, weight = torch.ones(min(batch_size * k, 2000), 200), torch.ones(784, 200)

    def seconds(precision: Precision) -> float:
        times = []
        with torch.no_grad(), autocast(device, precision):
            for _ in range(7):
                start = time.perf_counter()
                F.linear(h, weight)
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    return "bf16" if 1.25 * seconds("bf16") < seconds("32") else "32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context for matrix products in bf16, or with precision="32" in that of the weights."""
    return torch.autocast("cuda" if device.type == "cuda" else "cpu", torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def products_for_training(device: torch.device) -> Iterator[None]:
    """Let CUDA multiply fp32 matrices in TF32 inside; what is measured stays in fp32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
