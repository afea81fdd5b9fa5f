"""Seconds for L_5000 of 10,000 images on a GPU: python tests/benchmarks/gpu/evaluation.py

With compile=true they include compiling what an earlier call has left in the cache.
"""

import time

import torch
from steps import ARCHITECTURES

from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.models.hierarchical import HierarchicalModel

if __name__ == "__main__":
    for compile, precision in [("false", "32"), ("true", "32"), ("true", "bf16")]:
        for layers, sizes in ARCHITECTURES.items():
            torch.manual_seed(0)
            model = HierarchicalModel(*sizes, mean_image=torch.full((784,), 0.3)).cuda()
            images = (torch.rand(10_000, 784, device="cuda") < 0.3).to(torch.uint8)
            likelihood(model, images[:800], 1000, compile=compile, precision=precision)
            torch.cuda.synchronize()
            start = time.monotonic()
            nll = likelihood(model, images, 5000, compile=compile, precision=precision).nll
            seconds = time.monotonic() - start
            print(f"{layers} layers, compile={compile}, {precision}: {seconds:.1f} s, NLL {nll:.4f}", flush=True)
