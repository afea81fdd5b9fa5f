"""What takes seconds to import, imported when it is needed."""

import functools
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from iwae_lab.runs.record import Record

__all__ = ["load_run"]


@functools.cache
def load_run() -> "Callable[..., Record]":
    """`iwae_lab.runs.run.run`, which needs torch and Lightning.

    What modules make is no garbage. Looking for some among it would take a second of the six to the first step,
    so the collector waits while they load, and leaves out for good what is there then.
    """
    try:
        gc.disable()
        from iwae_lab.runs.run import run

        gc.freeze()
    finally:
        gc.enable()
    return run
