"""Ctrl-C and SIGTERM: one `KeyboardInterrupt`, wherever the process is."""

import signal
import threading
from typing import Any, NoReturn

__all__ = ["interrupt", "interrupt_on_signals", "raise_dropped_interrupt"]

_interrupted = threading.Event()


def interrupt(number: int, frame: Any) -> NoReturn:
    """Signal handler: raises `KeyboardInterrupt`; if Python drops it, `raise_dropped_interrupt` raises it later."""
    _interrupted.set()
    raise KeyboardInterrupt


def interrupt_on_signals() -> None:
    """Make Ctrl-C and SIGTERM `interrupt`, unless something else (a cluster's job runner) handles them."""
    _interrupted.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is default:
            signal.signal(number, interrupt)


def raise_dropped_interrupt() -> None:
    """Raises the `KeyboardInterrupt` that Python dropped, if it did, as it does in destructors and callbacks."""
    if _interrupted.is_set():
        _interrupted.clear()
        raise KeyboardInterrupt
