"""Ctrl-C, SIGTERM and a scheduler's warnings: one `KeyboardInterrupt`, wherever the process is."""

import functools
import signal
import threading
from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["WARNINGS", "interrupt", "interrupt_on_signals", "raise_dropped_interrupt"]

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # sent some time before a process is killed

_raised: BaseException | None = None


def _raise(error: BaseException) -> NoReturn:
    global _raised
    _raised = error
    raise error


def interrupt(number: int, frame: Any) -> NoReturn:
    """Signal handler: raises `KeyboardInterrupt`; if Python drops it, `raise_dropped_interrupt` raises it later."""
    _raise(KeyboardInterrupt())


def _as_job_runner(handler: Callable[[int, Any], Any], number: int, frame: Any) -> None:
    """Signal handler: calls the job runner's own `handler`, and stops the running job if that exits or fails."""
    try:
        handler(number, frame)
    except SystemExit as stop:  # submitit has queued the job again; the code tells its local runner
        _raise(stop)
    except Exception:  # submitit did not
        _raise(KeyboardInterrupt())


def interrupt_on_signals() -> None:
    """Let Ctrl-C and WARNINGS call `interrupt`, or the handler of a cluster's job runner where there is one."""
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
    """Raise the interrupt again if Python dropped it, as it does with what destructors and callbacks raise."""
    global _raised
    if _raised is not None:
        dropped, _raised = _raised, None
        raise dropped
