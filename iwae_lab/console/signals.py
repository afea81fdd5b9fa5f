"""Ctrl-C, SIGTERM and a scheduler's warnings: one `KeyboardInterrupt`, wherever the process is."""

import functools
import signal
import threading
from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["WARNINGS", "interrupt", "interrupt_on_signals", "raise_dropped_interrupt"]

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # of the end of a process, some time before it

_raised: BaseException | None = None


def _raise(error: BaseException) -> NoReturn:
    global _raised
    _raised = error
    raise error


def interrupt(number: int, frame: Any) -> NoReturn:
    """Signal handler: raises `KeyboardInterrupt`; if Python drops it, `raise_dropped_interrupt` raises it later."""
    _raise(KeyboardInterrupt())


def _as_job_runner(handler: Callable[[int, Any], Any], number: int, frame: Any) -> None:
    """A signal's handler: what a job runner does, where an exit or an error, as no Exception, stops what is running."""
    try:
        handler(number, frame)
    except SystemExit as stop:  # submitit has queued the job again; the code tells its local runner
        _raise(stop)
    except Exception:  # submitit won't
        _raise(KeyboardInterrupt())


def interrupt_on_signals() -> None:
    """Make Ctrl-C and WARNINGS `interrupt`, after what a cluster's job runner does, where one handles them."""
    global _raised
    _raised = None
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, *WARNINGS):
        handler = signal.getsignal(number)
        if handler in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, interrupt)
        elif callable(handler) and handler is not interrupt and not isinstance(handler, functools.partial):
            signal.signal(number, functools.partial(_as_job_runner, handler))


def raise_dropped_interrupt() -> None:
    """Raises the interrupt that Python dropped, if it did, as it does in destructors and callbacks."""
    global _raised
    if _raised is not None:
        dropped, _raised = _raised, None
        raise dropped
