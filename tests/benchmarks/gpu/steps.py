"""Microseconds per training step on a GPU: steps.py LAYERS K BATCH OPTIMIZER COMPILE PRECISION HOW

OPTIMIZER: adam or soap. COMPILE: true or false. PRECISION: 32 or bf16. HOW: graphs or calls.
"""

import itertools
import sys
import time

import torch

from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.iwae import IWAE
from iwae_lab.training.batches import Batches
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.soap import Soap
from iwae_lab.training.schedules import Constant
from iwae_lab.training.step import Step
from iwae_lab.training.steps import Steps

ARCHITECTURES = {1: ([50], [[200, 200]]), 2: ([100, 50], [[200, 200], [100, 100]])}


def milliseconds(layers, k, batch, optimizer, compile, precision, graphs, steps=400):
    images = torch.randint(0, 256, (20_000, 784), dtype=torch.uint8, device="cuda")
    model = HierarchicalModel(*ARCHITECTURES[layers], mean_image=torch.full((784,), 0.3))
    schedule = Constant(1, batch, 1e-3)
    training = Training(model, IWAE(), optimizer, schedule, k, compile=compile, precision=precision).cuda()
    training.on_train_epoch_start()
    step = Step(training.add_gradients, optimizer.make(training.parameters(), 1e-3))
    execute = Steps(step, compile, graphs=graphs)
    groups = itertools.chain.from_iterable(itertools.repeat(Batches(images, batch)))
    done, begun = 0, time.monotonic()
    while done < 5 * Steps.LONGEST:
        group = next(groups)
        execute(group, [1e-3] * len(group), 1)
        done += len(group)
    torch.cuda.synchronize()
    first = time.monotonic() - begun
    done, begun = 0, time.monotonic()
    while done < steps:
        group = next(groups)
        execute(group, [1e-3] * len(group), 1)
        done += len(group)
    torch.cuda.synchronize()
    return 1e3 * (time.monotonic() - begun) / done, first


if __name__ == "__main__":
    layers, k, batch, optimizer, compile, precision, graphs = sys.argv[1:]
    ms, first = milliseconds(
        int(layers),
        int(k),
        int(batch),
        {"adam": Adam, "soap": Soap}[optimizer](),
        compile,
        precision,
        graphs == "graphs",
    )
    print(*sys.argv[1:], f"{1e3 * ms:8.1f} us  (first {first:.1f} s)", flush=True)
