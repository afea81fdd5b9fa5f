"""Files of a dataset: found where they lie or downloaded from mirrors, and checked either way."""

import contextlib
import dataclasses
import gzip
import hashlib
import logging
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from filelock import FileLock

from iwae_lab.errors import UserError
from iwae_lab.record import write_atomically

__all__ = ["Content", "DataFile", "Packing"]

log = logging.getLogger(__name__)

ROUNDS = 2  # over the mirrors


@dataclass(frozen=True)
class Content:
    """The bytes of a file that was found and checked."""

    path: Path
    data: bytes
    """unpacked, if the file is a .gz"""
    published: bool
    """whether they are what the file's publisher gave out"""


@dataclass(frozen=True)
class Packing:
    """A small form of a file's bytes: unpack(pack(data)) == data."""

    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes], bytes]
    """raises `ValueError` for what `pack` did not make"""


@dataclass(frozen=True)
class DataFile:
    """A file known by the hash of what it holds."""

    name: str
    digest: str | None = None
    """sha256:HEX or, for a git blob id, git:HEX; of the unpacked bytes of a .gz, so that re-compressed copies are
    welcome. None: nobody published this file"""
    mirrors: tuple[str, ...] = ()
    """folders it can be downloaded from, in order of preference"""
    places: tuple[Path, ...] = ()
    """folders where it may lie, besides the data directory"""
    exact: bool = True
    """False: a copy with other content is taken for the user's own, unless it was downloaded"""
    timeout: float = 30.0
    """seconds that a mirror may keep silent"""
    packing: Packing | None = None
    """keep a small copy, NAME.packed, beside the file, and read that where it is; it too is checked by `digest`"""

    def read(self, folder: Path) -> Content:
        """The file, from one of `places`, `folder` or its parent, or else downloaded into `folder`.

        folder: of the dataset, in the data directory. Raises `UserError` if a damaged copy lies in it, or if
        there is no good one anywhere and no mirror gives one.
        """
        found, problems = self.search(folder)
        if found is None and self.mirrors and not (folder / self.name).exists():
            found, failures = self._download(folder)
            problems += failures
        if found is None:
            raise UserError(self._how_to_mend(folder, problems))
        if self.packing and found.path.name == self.name:
            with contextlib.suppress(OSError):  # a directory that can't be written has no packed copies
                write_atomically(found.path.with_name(f"{self.name}.packed"), self.packing.pack(found.data))
        return found

    def search(self, folder: Path) -> tuple[Content | None, list[str]]:
        """The file where it already lies, if it does, else what is wrong with copies that can't be used."""
        problems = []
        for path in self._paths(folder):
            if path.is_file():
                try:
                    return self._checked(path, self.exact), []
                except ValueError as error:
                    problems.append(f"{path}: {error}")
        return None, problems

    def _paths(self, folder: Path) -> list[Path]:
        names = [f"{self.name}.packed", self.name] if self.packing else [self.name]
        return [place / name for place in (*self.places, folder, folder.parent) for name in names]

    def _checked(self, path: Path, exact: bool) -> Content:
        """Raises `ValueError` with what was expected and what was found."""
        try:
            data = path.read_bytes()
            if path.suffix == ".packed" and self.packing:
                data = self.packing.unpack(data)
            elif self.name.endswith(".gz"):
                data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"expected a file that can be read to its end, found {error}") from None
        if self.digest is None:
            return Content(path, data, published=False)
        found = _digest(data, self.digest.partition(":")[0])
        if exact and found != self.digest:
            raise ValueError(f"expected content of {self.digest}, found {found} ({len(data):,} bytes)")
        return Content(path, data, published=found == self.digest)

    def _download(self, folder: Path) -> tuple[Content | None, list[str]]:
        """The file from the first mirror that gives it, else why none did; one process at a time."""
        target, partial = folder / self.name, folder / f".{self.name}.partial"
        failures: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{self.name}.lock"):
                if target.exists():  # brought by another process while this one waited
                    return self.search(folder)
                try:
                    for url in [mirror + self.name for mirror in self.mirrors] * ROUNDS:
                        try:
                            found = self._download_from(url, partial)
                        except (requests.RequestException, ValueError) as error:
                            failures[url] = _reason(error)
                        else:
                            os.replace(partial, target)
                            return dataclasses.replace(found, path=target), []
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            failures[str(folder)] = f"expected a directory that can be written, found {error}"
        return None, [f"{where}: {reason}" for where, reason in failures.items()]

    def _download_from(self, url: str, partial: Path) -> Content:
        log.info("downloading %s", url)
        pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=self.timeout)(url, str(partial), None)
        return self._checked(partial, exact=True)

    def _how_to_mend(self, folder: Path, problems: list[str]) -> str:
        places = ", ".join(dict.fromkeys(str(path.parent) for path in self._paths(folder)))
        text = f"{self.name}: expected in one of {places}"
        if problems:
            text += f"; found: {'; '.join(problems)}"
        if (folder / self.name).exists():
            text += ". Nothing was changed: move the damaged file away to have it fetched again"
        elif self.mirrors:
            fetch = f"python -m iwae_lab.data --data-dir {folder.parent} fetch {folder.name}"
            curl = f"curl -L --create-dirs -o {folder / self.name} {self.mirrors[0]}{self.name}"
            text += ". Name a folder that has it with data_dir=DIR or IWAE_LAB_DATA=DIR, or, where there is a network, "
            text += f"bring it with `{fetch}` or `{curl}`"
        return text


def _digest(data: bytes, kind: str) -> str:
    if kind == "git":
        return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return f"{kind}:{hashlib.new(kind, data).hexdigest()}"


def _reason(error: Exception) -> str:
    """Short, where requests' own messages repeat the URL and nest their causes."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    return type(error).__name__ if isinstance(error, requests.RequestException) else str(error)
