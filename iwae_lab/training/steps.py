"""Executes optimizer steps: eager, compiled, or on CUDA in graphs of several steps. Torch only."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from iwae_lab.models.compiling import Choice
from iwae_lab.training.optimizers.base import MatrixOptimizer
from iwae_lab.training.step import IncompleteState, Step

__all__ = ["Steps"]

Execution = Callable[[Tensor, float | Tensor], Tensor]
"""(batch, rate) -> loss."""


class Graph(NamedTuple):
    """Several captured steps and the tensors they read."""

    graph: torch.cuda.CUDAGraph
    batches: Tensor
    """[steps, batch, pixels], or of stacked models [steps, models, batch, pixels]"""
    rates: Tensor
    """[steps]"""


class Steps:
    """Takes one step per batch.

    The first `WARM_UP` steps of a fresh optimizer, which create its state, and batches whose size differs from the
    first are eager calls. The others are compiled as `mode` says (see `Choice`). On CUDA, `WARM_UP` calls are followed
    by graphs of at most `LONGEST` steps, which launch hundreds of kernels at once: the same operations with the same
    noise.
    after_call: receives the loss of each step outside graphs.
    """

    WARM_UP = 3
    LONGEST = 20
    GAIN_ON_CUDA = 0.4

    def __init__(
        self, step: Step, mode: str, *, graphs: bool, after_call: Callable[[Tensor], None] = lambda loss: None
    ) -> None:
        self.step = step
        self.after_call = after_call
        self.choice = Choice(mode, self.GAIN_ON_CUDA) if graphs else Choice(mode)
        self.compiled: Execution | None = None
        self.graphs: dict[int, Graph] | None = {} if graphs else None
        self.stream = torch.cuda.Stream() if graphs else None  # of calls and captures: autograd remembers streams
        self.shape: torch.Size | None = None
        self.fresh = 0 if step.optimizer.state else self.WARM_UP  # eager calls left that make its state
        self.calls = 0  # since the way of execution changed; graphs begin after `WARM_UP`

    def __call__(self, batches: Sequence[Tensor], rates: Sequence[float], steps_left: int) -> None:
        """Take one step per batch, [batch, pixels] or [models, batch, pixels], each at its own learning rate."""
        self.shape = self.shape or batches[0].shape
        optimizer = self.step.optimizer
        if self.graphs is not None:
            rates = torch.tensor(rates).pin_memory().to(batches[0].device, non_blocking=True)  # type: ignore[assignment]
        done = 0
        while done < len(batches):
            steps = self._steps_in_a_graph(batches[done:])
            if steps:
                self._replay(batches[done : done + steps], rates[done : done + steps], steps_left - done)  # type: ignore[arg-type]
            else:
                steps = 1
                self.after_call(self._call(batches[done], rates[done], steps_left - done))
            if isinstance(optimizer, MatrixOptimizer):
                optimizer.advance(steps)
            done += steps

    def _call(self, x: Tensor, rate: float | Tensor, steps_left: int) -> Tensor:
        self.calls += 1
        if self.fresh or x.shape != self.shape:
            self.fresh = max(0, self.fresh - 1)
            return self._on_stream(self.step, x, rate)
        step = self._execution(x)
        if self.graphs is not None:
            return self._on_stream(step, x, rate)
        with self.choice.timed(x.device, 1, steps_left):
            return step(x, rate)

    def _on_stream(self, step: Execution, x: Tensor, rate: float | Tensor) -> Tensor:
        if self.stream is None:
            return step(x, rate)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            loss = step(x, rate)
        torch.cuda.current_stream().wait_stream(self.stream)
        return loss

    def _execution(self, x: Tensor) -> Execution:
        """The step, compiled if that is the choice."""
        if self.choice.compile and self.compiled is None:
            self.calls = 0
            try:
                self.compiled = self.step.compiled(x)
            except IncompleteState:
                self.fresh = self.WARM_UP
            except Exception as error:  # whatever the compiler raises
                self.choice.impossible(error)
        return self.compiled if self.choice.compile and self.compiled else self.step

    def _steps_in_a_graph(self, batches: Sequence[Tensor]) -> int:
        """How many of the next batches one graph can take."""
        to_compile = self.choice.compile and self.compiled is None
        if self.graphs is None or self.calls < self.WARM_UP or to_compile:
            return 0
        most = min(self.LONGEST, len(batches))
        if isinstance(self.step.optimizer, MatrixOptimizer):
            most = min(most, self.step.optimizer.steps_to_refresh() or most)
        return next((i for i in range(most) if batches[i].shape != self.shape), most)

    def _replay(self, batches: Sequence[Tensor], rates: Tensor, steps_left: int) -> None:
        assert self.graphs is not None
        steps = len(batches)
        if steps not in self.graphs:
            self.graphs[steps] = self._capture(steps, batches[0])
        captured = self.graphs[steps]
        torch.stack(list(batches), out=captured.batches)
        captured.rates.copy_(rates)
        if steps < self.LONGEST // 2:
            captured.graph.replay()
            return
        before = self.choice.compile
        with self.choice.timed(rates.device, steps, steps_left):
            captured.graph.replay()
        if self.choice.compile != before:  # begin again with calls
            self.graphs, self.calls = {}, 0

    def _capture(self, steps: int, like: Tensor) -> Graph:
        graph = torch.cuda.CUDAGraph()
        batches = like.new_empty(steps, *like.shape)
        rates = torch.empty(steps, device=like.device)
        pool = next(iter(self.graphs.values())).graph.pool() if self.graphs else None
        step = self._execution(like)
        with torch.cuda.graph(graph, pool, self.stream):
            for x, rate in zip(batches, rates, strict=True):
                step(x, rate)
        return Graph(graph, batches, rates)
