"""Functions of tensors, compiled where that saves time. Torch only."""

import contextlib
import functools
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from iwae_lab.console.errors import UserError, require_one_of

__all__ = ["MODES", "Choice", "Compiled", "compiled", "inductor_options", "traced"]

log = logging.getLogger("iwae_lab")

MODES = ("auto", "true", "false")


class Choice:
    """Decides whether to compile a repeated computation.

    mode: "true" compiles at once, "false" never. "auto" measures `TIMED` eager executions, compiles if what is left
    would save more than compiling costs, measures as many compiled ones, and keeps the faster. gain: the share of the
    time that compiling is expected to save. Raises `UserError` for other modes.
    """

    TIMED = 20
    COST = 60.0  # seconds that compiling takes

    def __init__(self, mode: str, gain: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        require_one_of("compile", mode, MODES)
        self.compile = mode == "true"
        self.deciding = mode == "auto"
        self.gain = gain
        self.clock = clock
        self.times: list[float] = []  # seconds per unit
        self.eager: float | None = None  # their median

    @contextlib.contextmanager
    def timed(self, device: torch.device, units: int, units_left: int) -> Iterator[None]:
        """While undecided, time an execution of `units` of `units_left`; the device is synchronized."""
        if not self.deciding:
            yield
            return
        _synchronize(device)
        start = self.clock()
        yield
        _synchronize(device)
        self.times.append((self.clock() - start) / units)
        if len(self.times) == self.TIMED:
            self._decide(units_left)

    def impossible(self, error: Exception) -> None:
        """Say that compiling failed, and stay eager. Raises `error` if the user can fix it."""
        if isinstance(error, UserError):
            raise error
        _tell(_first_line(error))
        self.compile = self.deciding = False

    def _decide(self, units_left: int) -> None:
        seconds = statistics.median(self.times)
        self.times.clear()
        if self.eager is None:
            self.eager = seconds
            self.compile = self.deciding = units_left * seconds * self.gain > self.COST
            if self.compile:
                log.info("compile: trying compiled code, which takes a minute to make")
            return
        self.deciding = False
        self.compile = seconds < self.eager
        kept = "compiled" if self.compile else "eager"
        log.info("compile: %.3g ms instead of %.3g, so %s", 1e3 * seconds, 1e3 * self.eager, kept)


class Compiled:
    """A pure function of tensors, compiled for inputs of the first call's shapes and eager for others.

    mode: that of `Choice`. Noise is that of the eager function. If compiling fails, one line says so, and the function
    stays eager.
    """

    def __init__(
        self, function: Callable[..., Any], mode: str = "auto", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.eager = function
        self.choice = Choice(mode, clock=clock)
        self.compiled: Callable[..., Any] | None = None
        self.shapes: list[torch.Size] | None = None

    def __call__(self, *inputs: Tensor, calls_left: int) -> Any:
        """The function's value at `inputs`; `calls_left` counts the calls to come, with this one."""
        shapes = [x.shape for x in inputs]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            return self.eager(*inputs)
        with self.choice.timed(inputs[0].device, 1, calls_left):
            if not self.choice.compile:
                return self.eager(*inputs)
            try:
                self.compiled = self.compiled or compiled(self.eager)
                return self.compiled(*inputs)
            except Exception as error:  # whatever the compiler raises
                self.choice.impossible(error)
                return self.eager(*inputs)

    @property
    def mode(self) -> str:
        """The mode for another `Compiled` to continue with what this one has decided."""
        return "auto" if self.choice.deciding else "true" if self.choice.compile else "false"


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function of tensors, compiled for the shapes it is called with, with the noise of the eager function.

    It is one graph, or an error when first called: up to torch 2.10 a hook on a tensor breaks graphs, and its gradient
    would pass by the hook (pytorch/pytorch#91468).
    """
    torch.compiler.reset()  # else dynamo gives up after a few functions from one place, as in a multirun
    return torch.compile(function, fullgraph=True, dynamic=False, options=inductor_options())


def traced(function: Callable[..., Any], *inputs: Any, operations: dict[Any, Any] | None = None) -> GraphModule:
    """The operations of a function as a graph, made without values; `operations` replaces some by functions.

    It reads tensors that the function closes over wherever it is executed.
    """
    with patch.object(torch.compiler, "_is_compiling_flag", True):
        return make_fx(function, operations, "fake", _allow_non_fake_inputs=True)(*inputs)


def inductor_options() -> dict[str, Any]:
    """Eager noise and, if this torch has it, tanh by exp on CPUs, in a third of the time."""
    tanh_by_exp = "cpp.use_decompose_tanh"
    return {"fallback_random": True, **({tanh_by_exp: True} if tanh_by_exp in torch._inductor.list_options() else {})}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@functools.cache  # once for each reason
def _tell(reason: str) -> None:
    log.info("compile: not possible here, continuing without (%s)", reason)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
