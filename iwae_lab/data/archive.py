"""Arrays of a .npz file that anybody may have made: read in memory, nothing unpickled, nothing written."""

import io
import math
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from iwae_lab.data.download import LIMIT

__all__ = ["Archive", "listed"]


class Archive:
    """The arrays of a .npz file; each is read when it is asked for.

    Raises `ValueError`, with what was expected and found, for a file that is damaged or something else.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except Exception as error:  # whatever damaged bytes make zipfile raise
            raise _damaged(error) from None
        self.names = [member.filename.removesuffix(".npy") for member in self._zip.infolist()]
        """the arrays' names, in order; never used as paths"""

    def read(self, name: str) -> NDArray[Any]:
        """The array of that name, of any type but objects, and of at most `LIMIT` bytes."""
        try:
            member = self._zip.getinfo(f"{name}.npy")
            with self._zip.open(member) as file:
                shape, dtype = _header(file)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject:
                    raise _Refused(f"{name}: expected numbers, found Python objects")
                if size > LIMIT:
                    raise _Refused(f"{name}: expected an array of at most {LIMIT:,} bytes, found {size:,}")
                if file.tell() + size != member.file_size:
                    raise _Refused(f"{name}: expected {size:,} bytes, found {member.file_size - file.tell():,}")
            with self._zip.open(member) as file:
                return npy.read_array(file, allow_pickle=False)
        except _Refused:
            raise
        except Exception as error:  # whatever damaged bytes make zipfile and numpy raise
            raise _damaged(error) from None


class _Refused(ValueError):
    """An array whose header is not acceptable."""


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _damaged(error: Exception) -> ValueError:
    return ValueError(f"expected an intact .npz file ({error or type(error).__name__})")


def listed(names: Iterable[str]) -> str:
    """Untrusted names, made safe for one line: no control characters, shortened, the first eight."""
    shown = [(name if name.isprintable() else ascii(name))[:40] for name in names]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return ", ".join(shown[:8]) + more if shown else "none"
