"""What takes seconds to load, loaded when it is needed."""

import functools
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from iwae_lab.record import Record

__all__ = ["load_run"]


@functools.cache
def load_run() -> "Callable[[DictConfig], Record]":
    """`iwae_lab.run.run`, which needs torch and Lightning.

    Modules are no garbage: looking for it among them takes a sixth of the time in which they load, so the
    collector waits, and leaves them out for good.
    """
    gc.disable()
    try:
        from iwae_lab.run import run
    finally:
        gc.freeze()
        gc.enable()
    return run
