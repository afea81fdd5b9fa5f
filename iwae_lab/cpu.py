"""How a process uses the CPU and its memory. Torch only."""

import contextlib
import ctypes

import torch

__all__ = ["prepare_cpu"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def prepare_cpu(threads: int) -> None:
    """Compute with so many threads; to be called before the first product.

    Denormals count as zero: importance weights underflow, and products of denormals take twice the time.
    Memory that tensors leave is kept for the next ones: glibc would give large blocks back to the system, which
    clears them page by page before they can be used again; that took a quarter of an eager evaluation.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
