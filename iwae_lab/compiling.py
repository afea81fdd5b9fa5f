"""An objective as a function of the batch, compiled where that repays. Torch only."""

import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from iwae_lab.model import LatentVariableModel
from iwae_lab.objectives.base import Estimate, Objective

__all__ = ["LossFunction"]

log = logging.getLogger("iwae_lab")


class LossFunction:
    """`objective(model, x, k)` of batches x [batch_size, pixels] by torch.compile, of other sizes eagerly.

    mode: "true" compiles at once, "false" never. "auto" measures `TIMED` eager steps, compiles if the steps left
    would save more than compiling costs, measures as many compiled ones, and keeps the faster.
    The noise is that of the eager function. Where compiling fails, one line says so, and all goes on eagerly.
    """

    SKIPPED = 5  # steps before those that are timed: the first ones are slow
    TIMED = 15
    COST = 30.0  # seconds that compiling takes
    GAIN = 0.1  # of a step's time, the least worth trying for

    def __init__(
        self,
        objective: Objective,
        model: LatentVariableModel,
        k: int,
        batch_size: int,
        mode: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.batch_size = batch_size
        self.clock = clock
        self.times: list[float] = []
        self.eager_seconds: float | None = None  # a step
        self.deciding = mode == "auto"

        def eager(x: Tensor) -> Estimate:
            return objective(model, x, k)

        def pure(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            estimate = objective(model, x, k)
            return estimate.loss, estimate.log_w, estimate.inference_loss

        self.eager = eager
        self.pure = pure
        self.compiled: Callable[..., tuple[Tensor, Tensor, Tensor | None]] | None = None
        if mode == "true":
            self._compile()

    def __call__(self, x: Tensor, steps_left: int) -> Estimate:
        """The estimate for x [batch, pixels]; `steps_left` such calls are to come, this one included."""
        if len(x) != self.batch_size:
            self.times.clear()  # what comes between passes is no step
            return self.eager(x)
        if self.deciding:
            self._decide(steps_left)
        if self.compiled is None:
            return self.eager(x)
        try:
            return Estimate(*self.compiled(x))
        except Exception as error:  # whatever the compiler raises
            log.info("compile: not possible here, going on without (%s)", _first_line(error))
            self.compiled, self.deciding = None, False
            return self.eager(x)

    def _compile(self) -> None:
        self.compiled = torch.compile(self.pure, dynamic=False, options={"fallback_random": True})

    def _decide(self, steps_left: int) -> None:
        self.times.append(self.clock())
        if len(self.times) <= self.SKIPPED + self.TIMED:
            return
        marks = self.times[self.SKIPPED :]
        seconds = statistics.median(after - before for before, after in zip(marks, marks[1:], strict=False))
        self.times.clear()
        if self.eager_seconds is None:
            self.eager_seconds = seconds
            if steps_left * seconds * self.GAIN > self.COST:
                self._compile()
            else:
                self.deciding = False
            return
        self.deciding = False
        if seconds >= self.eager_seconds:
            self.compiled = None
        chosen = "eager" if self.compiled is None else "compiled"
        log.info("a step takes %.1f ms, %.1f ms compiled: %s", 1e3 * self.eager_seconds, 1e3 * seconds, chosen)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
