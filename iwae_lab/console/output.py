"""Text output that never fails: a closed pipe, a full disk or a narrow encoding loses characters, not a run."""

import contextlib
import io
import os
import sys
from typing import Any

__all__ = ["Lossy", "keep_output_from_failing", "lossy_text"]


class Lossy(io.FileIO):
    """A file whose writes always succeed; what can't be written is lost.

    lost: the error of the first lost write, else None.
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError as error:
            self.lost = self.lost or error
            return size
        return size if written is None else written  # None: the write would block

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self.lost = self.lost or error


def lossy_text(file: Lossy, encoding: str = "utf-8") -> io.TextIOWrapper:
    """Writes text to `file`, line by line, with "?" for what `encoding` lacks."""
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors="replace", line_buffering=True)


def keep_output_from_failing() -> None:
    """Make stdout and stderr lossy, unless something else (a test, a notebook) has replaced them."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # the process was started without it
            setattr(sys, name, lossy_text(Lossy(os.devnull, "w")))
            continue
        if not _writes_to(stream, descriptor) or isinstance(getattr(stream.buffer, "raw", None), Lossy):
            continue
        with contextlib.suppress(OSError):
            stream.flush()
        setattr(sys, name, lossy_text(Lossy(descriptor, "w", closefd=False), stream.encoding))


def _writes_to(stream: Any, descriptor: int) -> bool:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor
    except (OSError, ValueError):  # no file, or a closed one
        return False
