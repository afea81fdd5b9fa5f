"""Microseconds per training step on a GPU: steps.py LAYERS K BATCH OPTIMIZER COMPILE PRECISION HOW STACK

OPTIMIZER: adam or soap. COMPILE: true or false. PRECISION: 32 or bf16. HOW: graphs or calls. STACK: models at once.
The first 500 steps, which compile and capture, are timed apart.
"""

import itertools
import sys
import time

import torch

from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.iwae import IWAE
from iwae_lab.training.batches import Batches
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.soap import Soap
from iwae_lab.training.stacked import StackedGradients
from iwae_lab.training.step import Step
from iwae_lab.training.steps import Steps

ARCHITECTURES = {1: ([50], [[200, 200]]), 2: ([100, 50], [[200, 200], [100, 100]])}


def milliseconds(layers, k, batch, optimizer, compile, precision, graphs, stack, steps=400):
    images = torch.randint(0, 256, (20_000, 784), dtype=torch.uint8, device="cuda")
    each = []
    for _ in range(stack):
        model = HierarchicalModel(*ARCHITECTURES[layers], mean_image=torch.full((784,), 0.3))
        each.append(Gradients(model.cuda(), IWAE(), k, precision))
        each[-1].start_sums(images.device)
    parameters = [p for gradients in each for p in gradients.model.parameters()]
    step = Step(StackedGradients(each) if stack > 1 else each[0], optimizer.make(parameters, 1e-3))
    execute = Steps(step, compile, graphs=graphs)
    groups = itertools.chain.from_iterable(itertools.repeat(Batches(images, batch, stack=stack)))

    def take(count):
        """Take at least `count` steps; returns their number and the seconds they took."""
        done, begun = 0, time.monotonic()
        while done < count:
            group = next(groups)
            execute(group, [1e-3] * len(group), 1)
            done += len(group)
        torch.cuda.synchronize()
        return done, time.monotonic() - begun

    _, first = take(500)  # until graphs of every length are captured
    done, seconds = take(steps)
    return 1e3 * seconds / done, first, execute.choice.compile


if __name__ == "__main__":
    layers, k, batch, optimizer, compile, precision, graphs, stack = sys.argv[1:]
    ms, first, compiled = milliseconds(
        int(layers),
        int(k),
        int(batch),
        {"adam": Adam, "soap": Soap}[optimizer](),
        compile,
        precision,
        graphs == "graphs",
        int(stack),
    )
    said = "" if compiled == (compile == "true") else ", but not compiled"
    print(*sys.argv[1:], f"{1e3 * ms:8.1f} us  (first {first:.1f} s{said})", flush=True)
