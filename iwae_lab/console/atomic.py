"""Files that are written whole or not at all."""

import contextlib
import os
from pathlib import Path

__all__ = ["remove_partial_files", "writable", "write_atomically"]


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a temporary file beside `path`, flush it to disk, then rename it.

    Raises `OSError` that names `path` and leaves its old content.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def remove_partial_files(folder: Path) -> None:
    """Remove, in `folder` and below it, what `write_atomically` left in processes that were killed."""
    for path in folder.rglob(".*.*"):
        if path.suffix[1:].isdecimal():
            path.unlink()


def writable(folder: Path) -> bool:
    """Whether files can be written into `folder`, which is created if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):  # the latter for a null byte
        return False
    return os.access(folder, os.W_OK | os.X_OK)
