"""Files of a dataset: found on this machine or downloaded from mirrors, and checked either way."""

import contextlib
import dataclasses
import gzip
import hashlib
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pooch
import requests

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import UserError
from iwae_lab.console.locks import locked

__all__ = ["LIMIT", "Content", "Copies", "DataFile", "Packing"]

log = logging.getLogger(__name__)

ROUNDS = 2  # attempts per mirror
LIMIT = 2**31  # bytes per file and per array, unless a file says otherwise
CONTAINER_LIMIT = 2**28  # bytes of a file in another library's format
PACKED = ".packed"
_GZIP = b"\x1f\x8b"
_CHUNK = 2**20


@dataclass(frozen=True)
class Content:
    """The bytes of a file that was found and checked."""

    path: Path
    data: bytes
    """unpacked, if the file is gzipped"""
    published: bool
    """whether they are the published content"""
    converted: bool = False
    """whether they were converted from another library's format"""


@dataclass(frozen=True)
class Packing:
    """A small form of a file's bytes: unpack(pack(data)) == data."""

    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes], bytes]
    """raises `ValueError` for what `pack` did not make"""


@dataclass(frozen=True)
class Copies:
    """Where another library keeps the content of a file, and how to convert it back."""

    find: Callable[[Path], Iterable[Path]]
    """the dataset's folder in the data directory -> where copies may be"""
    unpack: Callable[[bytes], bytes] | None = None
    """raises `ValueError` for what is not of that format; None: they are the file itself, gzipped or not"""


@dataclass(frozen=True)
class DataFile:
    """A file known by the hash of what it holds, gzipped or not."""

    name: str
    digest: str | None = None
    """sha256:HEX or, for a git blob id, git:HEX; of the unpacked bytes of a .gz, so that re-compressed copies are
    valid. None: nobody published this file"""
    mirrors: tuple[str, ...] = ()
    """folders it can be downloaded from, in order of preference"""
    key: str | None = None
    """of the configuration, if the user names the file"""
    places: tuple[Path, ...] = ()
    """folders where it may be, besides the data directory"""
    limit: int = LIMIT
    """bytes it may hold, unpacked; no more are read"""
    exact: bool = True
    """False: a copy with other content is taken for the user's own, unless it was downloaded"""
    timeout: float = 30.0
    """seconds that a mirror may keep silent"""
    packing: Packing | None = None
    """keep a small copy, NAME.packed, beside the file, and read it if present; it too is checked by `digest`"""
    copies: tuple[Copies, ...] = ()
    """other libraries' copies, tried last; converted content is kept in the dataset's folder"""

    def read(self, folder: Path) -> Content:
        """The file, from one of `places`, `folder` or its parent, or else downloaded into `folder`.

        folder: the dataset's, in the data directory; where a damaged copy is in it, none is downloaded. Raises
        `UserError` if there is no good one and no mirror gives one.
        """
        local, problems = self.search(folder)
        if local is None and self.mirrors and not (folder / self.name).exists():
            local, failures = self._download(folder)
            problems += failures
        if local is None:
            raise UserError(self._how_to_mend(folder, problems))
        kept = None
        if local.converted:
            kept = folder / self._plain_name, local.data
        elif self.packing and local.path.name == self.name:
            kept = local.path.with_name(f"{self.name}{PACKED}"), self.packing.pack(local.data)
        if kept:
            with contextlib.suppress(OSError):  # a directory that can't be written keeps nothing
                kept[0].parent.mkdir(parents=True, exist_ok=True)
                write_atomically(*kept)
        return local

    def search(self, folder: Path) -> tuple[Content | None, list[str]]:
        """The local file, if there is a good one, else what is wrong with the copies found."""
        problems = []
        for path, unpack in self._candidates(folder):
            try:
                if self.digest is None and path.is_dir():
                    raise ValueError("expected a file, found a folder")
                if path.is_file():
                    return self._checked(path, self.exact, unpack), []
            except (OSError, ValueError) as error:
                problems.append(f"{path}: {error}")
        return None, problems

    @property
    def _plain_name(self) -> str:
        return self.name.removesuffix(".gz")

    def _candidates(self, folder: Path) -> Iterator[tuple[Path, Callable[[bytes], bytes] | None]]:
        """Paths to try, in order of preference, and how to unpack each."""
        names = [self.name] if self.digest is None else [self.name, self._plain_name, f"{self._plain_name}.gz"]
        if self.packing:
            names.insert(0, f"{self.name}{PACKED}")
        for path in dict.fromkeys(place / name for place in self._folders(folder) for name in names):
            yield path, self.packing.unpack if self.packing and path.suffix == PACKED else None
        for copies in self.copies:
            for path in copies.find(folder):
                yield path, copies.unpack

    def _folders(self, folder: Path) -> list[Path]:
        return [*self.places, folder, folder.parent]

    def _checked(self, path: Path, exact: bool, unpack: Callable[[bytes], bytes] | None = None) -> Content:
        """Raises `ValueError` with what was expected and what was found."""
        converted = unpack is not None and path.suffix != PACKED
        try:
            data = _read(path, CONTAINER_LIMIT if converted else self.limit)
            if unpack:
                data = unpack(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"expected a file that can be read to its end, found {error}") from None
        if self.digest is None:
            return Content(path, data, published=False)
        actual = _digest(data, self.digest.partition(":")[0])
        if exact and actual != self.digest:
            raise ValueError(f"expected content of {self.digest}, found {actual} ({len(data):,} bytes)")
        return Content(path, data, actual == self.digest, converted)

    def _download(self, folder: Path) -> tuple[Content | None, list[str]]:
        """The file from the first mirror that gives it, else why none did; one process at a time."""
        target, partial = folder / self.name, folder / f".{self.name}.partial"
        failures: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{self.name}.lock", self.name):
                if target.exists():  # brought by another process while this one waited
                    return self.search(folder)
                try:
                    for url in [mirror + self.name for mirror in self.mirrors] * ROUNDS:
                        try:
                            local = self._download_from(url, partial)
                        except (requests.RequestException, ValueError) as error:
                            failures[url] = _reason(error)
                        else:
                            os.replace(partial, target)
                            return dataclasses.replace(local, path=target), []
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            failures[str(folder)] = f"expected a directory that can be written, found {error}"
        return None, [f"{where}: {reason}" for where, reason in failures.items()]

    def _download_from(self, url: str, partial: Path) -> Content:
        log.info("downloading %s", url)
        with partial.open("wb") as file:
            bounded = _Bounded(file, self.limit)
            pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=self.timeout)(url, bounded, None)
        return self._checked(partial, exact=True)

    def _how_to_mend(self, folder: Path, problems: list[str]) -> str:
        places = ", ".join(dict.fromkeys(str((place / self.name).parent) for place in self._folders(folder)))
        named = f"{self.key}={self.name}" if self.key else self.name
        text = f"{named}: expected {'a file' if Path(self.name).is_absolute() else f'in one of {places}'}"
        if self.copies:
            text += ", or where torchvision, Keras, scikit-learn or Hugging Face keeps it"
        if problems:
            text += f"; found: {'; '.join(problems)}"
        if self.mirrors and (folder / self.name).exists():
            text += ". Nothing was changed: move the damaged file away to fetch it again"
        elif not Path(self.name).is_absolute():
            text += ". Name a folder that has it with data_dir=DIR or IWAE_LAB_DATA=DIR"
            if self.mirrors:
                fetch = f"python -m iwae_lab.data --data-dir {folder.parent} fetch {folder.name}"
                curl = f"curl -L --create-dirs -o {folder / self.name} {self.mirrors[0]}{self.name}"
                text += f", or, where there is a network, fetch it with `{fetch}` or `{curl}`"
        return text


class _Bounded:
    """A file that takes no more than `limit` bytes. Raises `ValueError` for more."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._limit = file, limit

    def write(self, data: bytes) -> int:
        _within(self._limit, self._file.tell() + len(data))
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _read(path: Path, limit: int) -> bytes:
    """What a file holds, unpacked if it is gzipped. Raises `ValueError` if that is more than `limit` bytes."""
    with path.open("rb") as file:
        gzipped = path.suffix != PACKED and file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not gzipped:
            _within(limit, os.fstat(file.fileno()).st_size)
            return file.read()
        chunks, size = [], 0
        with gzip.GzipFile(fileobj=file) as unpacked:
            while chunk := unpacked.read(_CHUNK):
                size += len(chunk)
                _within(limit, size)
                chunks.append(chunk)
        return b"".join(chunks)


def _within(limit: int, size: int) -> None:
    if size > limit:
        raise ValueError(f"expected at most {limit:,} bytes, found more")


def _digest(data: bytes, kind: str) -> str:
    if kind == "git":
        return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return f"{kind}:{hashlib.new(kind, data).hexdigest()}"


def _reason(error: Exception) -> str:
    """A short reason: requests' messages repeat the URL and nest their causes."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    return type(error).__name__ if isinstance(error, requests.RequestException) else str(error)
