"""Progress of a task: one bar on a terminal, elsewhere a line from time to time."""

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from iwae_lab.console.signals import raise_dropped_interrupt

__all__ = ["Meter", "clock", "shown"]

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_UPDATES = 0.5
SECONDS_OF_RATE = 300.0


class Meter:
    """Displays a task's progress by `show` whenever it is `due`, until `close`.

    start: the fraction already done when a run resumes. The time left follows the rate of the last minutes.
    """

    def __init__(self, task: str, start: float = 0.0) -> None:
        self.task = task
        self.start_fraction = start
        self.last = time.monotonic()
        self.bar: Progress | None = None
        self.interval = SECONDS_BETWEEN_LINES
        if sys.stderr.isatty():
            self.interval = SECONDS_BETWEEN_UPDATES
            columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}")
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar_task = self.bar.add_task(task, total=1.0, text="")
            self.bar.update(self.bar_task, completed=start)
            self.bar.start()
        self.marks = deque([(self.last, start)], maxlen=round(SECONDS_OF_RATE / self.interval))

    def close(self) -> None:
        """Remove the bar."""
        if self.bar:
            self.bar.stop()

    def due(self) -> bool:
        """Whether it is time to show something again; cheap enough for every step.

        Raises `KeyboardInterrupt` if Python dropped one: every long task calls this at every step.
        """
        raise_dropped_interrupt()
        now = time.monotonic()
        if now - self.last < self.interval:
            return False
        self.last = now
        return True

    def show(self, fraction: float, text: str = "") -> None:
        """Display that `fraction` of the task is done, with `text` and the time left."""
        now, (then, before) = time.monotonic(), self.marks[0]
        if fraction > max(before, self.start_fraction + 0.02):  # too early to tell before
            text += f"  {clock((now - then) * (1 - fraction) / (fraction - before))} left"
        self.marks.append((now, fraction))
        text = text.strip()
        if self.bar:
            self.bar.update(self.bar_task, completed=fraction, text=text)
        else:
            log.info("%s %.0f %%  %s", self.task, 100 * fraction, text)


@contextlib.contextmanager
def shown(task: str) -> Iterator[Callable[[float], None]]:
    """Yields a function to call, as often as you like, with the fraction done; the first call sets the start."""
    meter: Meter | None = None

    def progress(fraction: float) -> None:
        nonlocal meter
        meter = meter or Meter(task, fraction)
        if meter.due():
            meter.show(fraction)

    try:
        yield progress
    finally:
        if meter:
            meter.close()


def clock(seconds: float) -> str:
    """As H:MM:SS."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
