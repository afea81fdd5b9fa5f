"""Imports that take seconds, made when they are needed."""

import functools
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from iwae_lab.runs.record import Record

__all__ = ["load_run"]


@functools.cache
def load_run() -> "Callable[..., Record]":
    """Import `iwae_lab.runs.run.run`, which needs torch and Lightning.

    Freezes the garbage collector: imported modules never die, and searching them would take one of the six seconds to
    the first step.
    """
    try:
        gc.disable()
        from iwae_lab.runs.run import run

        gc.freeze()
    finally:
        gc.enable()
    return run
