"""Functions of tensors, compiled where that repays. Torch only."""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from iwae_lab.errors import UserError

__all__ = ["Compiled"]

log = logging.getLogger("iwae_lab")


class Compiled:
    """A pure function of tensors, by torch.compile for inputs of its first call's shapes, else as it is.

    mode: "true" compiles at once, "false" never. "auto" measures `TIMED` eager calls, compiles if the calls left
    would save more than compiling costs, measures as many compiled ones, and keeps the faster. It wants calls that
    follow one another at once, and waits for the device while it measures.
    The noise is that of the eager function. Where compiling fails, one line says so, and all goes on eagerly.
    """

    SKIPPED = 5  # calls before those that are timed: the first ones are slow
    TIMED = 15
    COST = 30.0  # seconds that compiling takes
    GAIN = 0.1  # of a call's time, the least worth trying for
    TANH_BY_EXP = "cpp.use_decompose_tanh"  # on CPUs, in a third of the time; not in every torch
    possible = True  # until it fails in this process

    def __init__(
        self, function: Callable[..., Any], mode: str = "auto", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.eager = function
        self.compiled: Callable[..., Any] | None = None
        self.clock = clock
        self.shapes: list[torch.Size] | None = None
        self.times: list[float] = []
        self.eager_seconds: float | None = None  # a call
        self.deciding = mode == "auto" and Compiled.possible
        if mode == "true" and Compiled.possible:
            self._compile()

    def __call__(self, *inputs: Tensor, calls_left: int) -> Any:
        """The function's value at `inputs`; `calls_left` such calls are to come, this one included."""
        shapes = [x.shape for x in inputs]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            self.times.clear()  # the next full call will not have followed a full one
            return self.eager(*inputs)
        if self.deciding:
            self._decide(calls_left, inputs[0].device)
        if self.compiled is None:
            return self.eager(*inputs)
        try:
            return self.compiled(*inputs)
        except UserError:
            raise
        except Exception as error:  # whatever the compiler raises
            log.info("compile: not possible here, going on without (%s)", _first_line(error))
            self.compiled, self.deciding, Compiled.possible = None, False, False
            return self.eager(*inputs)

    def _compile(self) -> None:
        torch.compiler.reset()  # else dynamo gives up after a few functions made in one place, as a multirun makes them
        options: dict[str, Any] = {"fallback_random": True}
        if self.TANH_BY_EXP in torch._inductor.list_options():
            options[self.TANH_BY_EXP] = True
        self.compiled = torch.compile(self.eager, dynamic=False, options=options)

    def _decide(self, calls_left: int, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.times.append(self.clock())
        if len(self.times) <= self.SKIPPED + self.TIMED:
            return
        marks = self.times[self.SKIPPED :]
        seconds = statistics.median(after - before for before, after in zip(marks, marks[1:], strict=False))
        self.times.clear()
        if self.eager_seconds is None:
            self.eager_seconds = seconds
            if calls_left * seconds * self.GAIN > self.COST:
                self._compile()
            else:
                self.deciding = False
            return
        self.deciding = False
        if seconds >= self.eager_seconds:
            self.compiled = None
        kept = "eager" if self.compiled is None else "compiled"
        log.info("compile: %.1f ms instead of %.1f, so %s", 1e3 * seconds, 1e3 * self.eager_seconds, kept)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
