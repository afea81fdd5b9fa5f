"""Executes optimizer steps: one call per step, or on CUDA graphs of several steps. Imports torch only."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from iwae_lab.models.compiling import Compiled
from iwae_lab.training.optimizers.base import MatrixOptimizer

__all__ = ["Steps"]

log = logging.getLogger("iwae_lab")


class Graph(NamedTuple):
    """Several captured steps and the tensors they read."""

    graph: torch.cuda.CUDAGraph
    batches: Tensor
    """[steps, batch, pixels]"""
    rates: Tensor
    """[steps]"""


class Steps:
    """For each batch, calls `gradients(x)`, which adds to the parameters' `grad`, and then steps the optimizer.

    On CUDA the first `WARM_UP` steps are ordinary calls. Later ones are captured and replayed as CUDA graphs of at most
    `LONGEST` steps, which launch hundreds of kernels at once: the same operations with the same noise. A batch of
    another size is an ordinary call. With compile="auto", gradients are compiled if the remaining steps repay it, and
    compilation is undone if it turns out not to be faster.
    """

    WARM_UP = 3
    LONGEST = 20
    TIMED = 5  # replays of the longest graph
    GAIN = 0.4  # the fraction of a replay's time that compiling may save
    COST = 40.0  # seconds to compile

    def __init__(
        self,
        gradients: Callable[[Tensor], object],
        optimizer: torch.optim.Optimizer,
        compiled: Compiled,
        *,
        graphs: bool,
    ) -> None:
        self.gradients = gradients
        self.optimizer = optimizer
        self.compiled = compiled
        self.graphs: dict[int, Graph] | None = {} if graphs else None
        self.stream = torch.cuda.Stream() if graphs else None  # of calls and captures: autograd remembers streams
        self.shape: torch.Size | None = None
        self.calls = 0
        self.deciding, compiled.deciding = compiled.deciding and graphs, compiled.deciding and not graphs
        self.times: list[float] = []  # of replayed steps, seconds
        self.uncompiled: float | None = None  # seconds per step

    def __call__(self, batches: Sequence[Tensor], rates: Sequence[float], steps_left: int) -> None:
        """Take one step per batch [batch, pixels], each at its own learning rate."""
        self.shape = self.shape or batches[0].shape
        if batches[0].is_cuda:
            rates = torch.tensor(rates).pin_memory().to(batches[0].device, non_blocking=True)  # type: ignore[assignment]
        done = 0
        while done < len(batches):
            steps = self._steps_in_a_graph(batches[done:])
            if steps and self.graphs is not None:
                self._replay(batches[done : done + steps], rates[done : done + steps], steps_left - done)  # type: ignore[arg-type]
            else:
                steps = 1
                self._call(batches[done], rates[done])
            if isinstance(self.optimizer, MatrixOptimizer):
                self.optimizer.advance(steps)
            done += steps

    def _call(self, x: Tensor, rate: float | Tensor) -> None:
        self.calls += 1
        if self.stream is None:
            self._update(x, rate)
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self._update(x, rate)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _update(self, x: Tensor, rate: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        self.gradients(x)
        if isinstance(self.optimizer, MatrixOptimizer):
            self.optimizer.update()
        else:
            self.optimizer.step()

    def _steps_in_a_graph(self, batches: Sequence[Tensor]) -> int:
        """How many of the next batches a single graph can process."""
        if self.graphs is None or self.calls < self.WARM_UP:
            return 0
        most = min(self.LONGEST, len(batches))
        if isinstance(self.optimizer, MatrixOptimizer):
            most = min(most, self.optimizer.steps_to_refresh() or most)
        return next((i for i in range(most) if batches[i].shape != self.shape), most)

    def _replay(self, batches: Sequence[Tensor], rates: Tensor, steps_left: int) -> None:
        assert self.graphs is not None
        steps = len(batches)
        if steps not in self.graphs:
            self.graphs[steps] = self._capture(steps, batches[0])
        captured = self.graphs[steps]
        torch.stack(list(batches), out=captured.batches)
        captured.rates.copy_(rates)
        if not self.deciding or steps < self.LONGEST // 2:
            captured.graph.replay()
            return
        torch.cuda.synchronize(captured.rates.device)
        start = time.monotonic()
        captured.graph.replay()
        torch.cuda.synchronize(captured.rates.device)
        self.times.append((time.monotonic() - start) / steps)
        if len(self.times) == self.TIMED:
            self._decide(steps_left)

    def _decide(self, steps_left: int) -> None:
        seconds = statistics.median(self.times)
        self.times.clear()
        if self.uncompiled is None:
            self.uncompiled = seconds
            self.deciding = steps_left * seconds * self.GAIN > self.COST
            if self.deciding:
                self.compiled.compile()
                self._forget()
            return
        self.deciding = False
        faster = seconds < self.uncompiled
        log.info(
            "compile: %.3f ms per step instead of %.3f, so %s",
            1e3 * seconds, 1e3 * self.uncompiled, "compiled" if faster else "eager",
        )  # fmt: skip
        if not faster:
            self.compiled.drop()
            self._forget()

    def _forget(self) -> None:
        """Drop all graphs and start again with ordinary calls."""
        self.graphs, self.calls = {}, 0

    def _capture(self, steps: int, like: Tensor) -> Graph:
        graph = torch.cuda.CUDAGraph()
        batches = like.new_empty(steps, *like.shape)
        rates = torch.empty(steps, device=like.device)
        pool = next(iter(self.graphs.values())).graph.pool() if self.graphs else None
        with torch.cuda.graph(graph, pool, self.stream):
            for x, rate in zip(batches, rates, strict=True):
                self._update(x, rate)
        return Graph(graph, batches, rates)
