"""Functions of tensors, compiled where that saves time. Torch only."""

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from iwae_lab.console.errors import UserError

__all__ = ["Compiled"]

log = logging.getLogger("iwae_lab")


class Compiled:
    """A pure function of tensors, compiled for inputs of the first call's shapes and eager for others.

    mode: "true" compiles at once, "false" never. "auto" measures `TIMED` eager calls, compiles if the calls left
    would save more than compiling costs, measures as many compiled ones, and keeps the faster. A call's time lasts
    until the next one begins; while it is measured, the device is synchronized. Noise is that of the eager function.
    Where compiling fails, one line says so, and the function stays eager.
    """

    SKIPPED = 5  # calls before those that are timed: the first ones are slow
    TIMED = 15
    COST = 30.0  # seconds that compiling takes
    GAIN = 0.1  # smallest share of a call's time that is worth compiling for
    TANH_BY_EXP = "cpp.use_decompose_tanh"  # on CPUs, in a third of the time; not in every torch
    possible = True  # until it fails in this process

    def __init__(
        self, function: Callable[..., Any], mode: str = "auto", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.eager = function
        self.compiled: Callable[..., Any] | None = None
        self.clock = clock
        self.shapes: list[torch.Size] | None = None
        self.started: float | None = None  # the last call, if it was of these shapes
        self.times: list[float] = []  # of calls of these shapes
        self.eager_seconds: float | None = None  # a call
        self.deciding = mode == "auto" and Compiled.possible
        if mode == "true":
            self.compile()

    def __call__(self, *inputs: Tensor, calls_left: int) -> Any:
        """The function's value at `inputs`; `calls_left` such calls are to come, this one included."""
        shapes = [x.shape for x in inputs]
        self.shapes = self.shapes or shapes
        fits = shapes == self.shapes
        if self.deciding:
            self._time(fits, inputs[0].device)
            if len(self.times) == self.SKIPPED + self.TIMED:
                self._decide(calls_left)
        if self.compiled is None or not fits:
            return self.eager(*inputs)
        try:
            return self.compiled(*inputs)
        except UserError:
            raise
        except Exception as error:  # whatever the compiler raises
            log.info("compile: not possible here, continuing without (%s)", _first_line(error))
            self.compiled, self.deciding, Compiled.possible = None, False, False
            return self.eager(*inputs)

    @property
    def mode(self) -> str:
        """What another one is to be made with that goes on where this one is."""
        return "auto" if self.deciding else "false" if self.compiled is None else "true"

    def drop(self) -> None:
        """Call the function eagerly from now on."""
        self.compiled, self.deciding = None, False

    def compile(self) -> None:
        """Compile the function from its next call on."""
        if not Compiled.possible:
            return
        torch.compiler.reset()  # else dynamo gives up after a few functions made in one place, as a multirun makes them
        options: dict[str, Any] = {"fallback_random": True}
        if self.TANH_BY_EXP in torch._inductor.list_options():
            options[self.TANH_BY_EXP] = True
        self.compiled = torch.compile(self.eager, dynamic=False, options=options)

    def _time(self, fits: bool, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = self.clock()
        if self.started is not None:
            self.times.append(now - self.started)
        self.started = now if fits else None

    def _decide(self, calls_left: int) -> None:
        seconds = statistics.median(self.times[self.SKIPPED :])
        self.times.clear()
        if self.eager_seconds is None:
            self.eager_seconds = seconds
            if calls_left * seconds * self.GAIN > self.COST:
                self.compile()
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
