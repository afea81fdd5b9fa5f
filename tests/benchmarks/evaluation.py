"""speed LAYERS COMPILE PRECISION: rows per second of the NLL; memory K: its peak memory, MB beyond the idle process."""

import os
import resource
import sys
import time
from pathlib import Path

import torch

from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.model import HierarchicalModel

torch.set_flush_denormal(True)
torch.set_num_threads(2)
ARCHITECTURES = {1: ([50], [[200, 200]]), 2: ([100, 50], [[200, 200], [100, 100]])}


def new(layers: int) -> HierarchicalModel:
    return HierarchicalModel(*ARCHITECTURES[layers], mean_image=torch.full((784,), 0.2))


def images(count: int) -> torch.Tensor:
    return torch.bernoulli(torch.full((count, 784), 0.2)).to(torch.uint8)


def speed(layers: str, compile: str, precision: str, k: int = 5000) -> float:
    """Rows per second, but for the first batches."""
    model, marks = new(int(layers)), []
    likelihood(
        model,
        images(400),
        k,
        compile=compile,
        precision=precision,
        progress=lambda n: marks.append((n, time.perf_counter())),
    )
    (first, start), (last, end) = marks[1], marks[-1]
    return (last - first) * k / (end - start)


def memory(k: str) -> float:
    """MB."""
    model, x = new(1), images(1000)
    idle = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    likelihood(model, x[: max(1, 500_000 // int(k))], int(k))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - idle


if __name__ == "__main__":
    print({"speed": speed, "memory": memory}[sys.argv[1]](*sys.argv[2:]))
