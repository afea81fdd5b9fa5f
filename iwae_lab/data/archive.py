"""Arrays of a .npz file from an untrusted source: read in memory, nothing unpickled, nothing written."""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from iwae_lab.data.download import LIMIT

__all__ = ["Archive", "Refused", "intact", "listed"]


class Refused(ValueError):
    """What the header of a file or an array declares is not acceptable."""


@contextlib.contextmanager
def intact(kind: str) -> Iterator[None]:
    """Turns any error that damaged bytes cause inside the block into `ValueError`: expected an intact `kind`."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise ValueError(f"expected an intact {kind} ({str(error) or type(error).__name__})") from None


class Archive:
    """The arrays of a .npz file; each is read when it is asked for.

    Raises `ValueError`, with what was expected and found, for a file that is damaged or something else.
    """

    def __init__(self, data: bytes) -> None:
        with intact(".npz file"):
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        self.names = [member.filename.removesuffix(".npy") for member in self._zip.infolist()]
        """the arrays' names, in order; never used as paths"""

    def read(self, name: str) -> NDArray[Any]:
        """The array of that name, of any type but objects, and of at most `LIMIT` bytes."""
        with intact(".npz file"):
            member = self._zip.getinfo(f"{name}.npy")
            with self._zip.open(member) as file:
                shape, dtype = _header(file)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject:
                    raise Refused(f"{name}: expected numbers, found Python objects")
                if size > LIMIT:
                    raise Refused(f"{name}: expected an array of at most {LIMIT:,} bytes, found {size:,}")
                if file.tell() + size != member.file_size:
                    raise Refused(f"{name}: expected {size:,} bytes, found {member.file_size - file.tell():,}")
            with self._zip.open(member) as file:
                return npy.read_array(file, allow_pickle=False)


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def listed(names: Iterable[str]) -> str:
    """Untrusted names, made safe for one line: no control characters, shortened, the first eight."""
    shown = [(name if name.isprintable() else ascii(name))[:40] for name in names]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return ", ".join(shown[:8]) + more if shown else "none"
