"""Files that are written whole or not at all."""

import os
from pathlib import Path

__all__ = ["writable", "write_atomically"]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a temporary name, then move."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def writable(folder: Path) -> bool:
    """Whether files can be written into `folder`, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
