"""The yardstick: the loop a good user would write by hand, in plain eager PyTorch, fp32, with the data in memory.

    python tests/benchmarks/plain_loop.py train LAYERS K BATCH   prints images per second
    python tests/benchmarks/plain_loop.py eval LAYERS            prints rows (image × sample) per second

The encoder runs once an image; Adam is the fused one. Nothing of iwae_lab is used.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tanh_network(n_in: int, n_hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n_hidden), nn.Tanh())


class GaussianLayer(nn.Module):
    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.body = tanh_network(n_in, n_hidden)
        self.mean, self.log_std = nn.Linear(n_hidden, n_out), nn.Linear(n_hidden, n_out)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(h)
        return self.mean(h), self.log_std(h)


def log_normal(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class IWAE(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.two = layers == 2
        units = 100 if self.two else 50
        self.q1 = GaussianLayer(784, 200, units)
        if self.two:
            self.q2, self.p1 = GaussianLayer(100, 100, 50), GaussianLayer(50, 100, 100)
        self.pixels = nn.Sequential(tanh_network(units, 200), nn.Linear(200, 784))

    def log_weights(self, x: Tensor, k: int) -> Tensor:
        mean, log_std = self.q1(x)
        z = top = mean + log_std.exp() * torch.randn(k, *mean.shape)
        log_w = -log_normal(z, mean, log_std)
        if self.two:
            mean2, log_std2 = self.q2(z)
            top = mean2 + log_std2.exp() * torch.randn_like(mean2)
            log_w = log_w - log_normal(top, mean2, log_std2) + log_normal(z, *self.p1(top))
        log_w = log_w + log_normal(top, torch.zeros(()), torch.zeros(()))
        logits = self.pixels(z)
        return log_w - F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def median_seconds(step: Callable[[], object], seconds: float = 4.0, warm_up: int = 5) -> float:
    for _ in range(warm_up):
        step()
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def train(layers: int, k: int, batch: int) -> float:
    model, images = IWAE(layers), torch.rand(20_000, 784)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        x = torch.bernoulli(images[torch.randint(0, len(images), (batch,))])
        loss = -(torch.logsumexp(model.log_weights(x, k), 0) - math.log(k)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return batch / median_seconds(step)


def evaluate(layers: int, batch: int = 20, k: int = 250) -> float:
    model, x = IWAE(layers), torch.bernoulli(torch.rand(batch, 784))
    with torch.inference_mode():
        return batch * k / median_seconds(lambda: model.log_weights(x, k))


if __name__ == "__main__":
    torch.set_num_threads(2)
    kind, *numbers = sys.argv[1:]
    print((train if kind == "train" else evaluate)(*map(int, numbers)))
