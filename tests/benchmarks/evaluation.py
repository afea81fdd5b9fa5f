"""speed LAYERS: rows per second of the NLL; memory K: its peak memory, MB beyond the idle process."""

import resource
import sys
import time

import torch

from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.model import HierarchicalModel

torch.set_flush_denormal(True)
ARCHITECTURES = {1: ([50], [[200, 200]]), 2: ([100, 50], [[200, 200], [100, 100]])}


def new(layers: int) -> HierarchicalModel:
    return HierarchicalModel(*ARCHITECTURES[layers], mean_image=torch.full((784,), 0.2))


def images(count: int) -> torch.Tensor:
    return torch.bernoulli(torch.full((count, 784), 0.2)).to(torch.uint8)


def speed(layers: int, k: int = 5000) -> float:
    """Rows per second."""
    model, x = new(layers), images(40)
    likelihood(model, x[:2], k)
    rows, start = 0, time.perf_counter()
    while time.perf_counter() - start < 4:
        likelihood(model, x, k)
        rows += len(x) * k
    return rows / (time.perf_counter() - start)


def memory(k: int) -> float:
    """MB."""
    model, x = new(1), images(1000)
    idle = peak()
    likelihood(model, x[: max(1, 500_000 // k)], k)
    return peak() - idle


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print({"speed": speed, "memory": memory}[sys.argv[1]](int(sys.argv[2])))
