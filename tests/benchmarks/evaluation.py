"""speed RUN COMPILE PRECISION: rows per second of a run's NLL; memory K: its peak memory, MB above the idle process."""

import os
import resource
import sys
import time
from pathlib import Path

import torch

from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.runs.trained import TrainedRun


def speed(folder: str, compile: str, precision: str, k: int = 5000) -> float:
    """Rows per second, but for the first batches."""
    run = TrainedRun.read(Path(folder), ["evaluation.images=400"])
    marks: list[tuple[int, float]] = []
    likelihood(
        run.model,
        run.data.test,
        k,
        compile=compile,
        precision=precision,
        progress=lambda n: marks.append((n, time.perf_counter())),
    )
    (first, start), (last, end) = marks[1], marks[-1]
    return (last - first) * k / (end - start)


def memory(k: str) -> float:
    """MB."""
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    model = HierarchicalModel([50], [[200, 200]], mean_image=torch.full((784,), 0.2))
    x = torch.bernoulli(torch.full((1000, 784), 0.2)).to(torch.uint8)
    idle = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    likelihood(model, x[: max(1, 500_000 // int(k))], int(k))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - idle


if __name__ == "__main__":
    print({"speed": speed, "memory": memory}[sys.argv[1]](*sys.argv[2:]))
