"""Files of a dataset: found in the data directory or downloaded from mirrors, and checked."""

import gzip
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from iwae_lab.errors import UserError

__all__ = ["GzipFile"]


@dataclass(frozen=True)
class GzipFile:
    """A gzip file known by the hash of what it holds, so that re-compressed copies are welcome."""

    name: str
    sha256: str
    """of the unpacked bytes"""
    mirrors: tuple[str, ...]
    """folders it can be downloaded from, in order of preference"""

    def read(self, folder: Path) -> bytes:
        """The unpacked bytes of the file in `folder`, downloaded first if it is missing."""
        path = folder / self.name
        if path.exists():
            return self._verified(path)
        folder.mkdir(parents=True, exist_ok=True)
        failures = []
        for mirror in self.mirrors:
            url = mirror + self.name
            with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as partial:
                target = Path(partial) / self.name
                try:
                    pooch.HTTPDownloader(progressbar=True, timeout=30)(url, str(target), None)
                    content = self._verified(target)
                except (requests.RequestException, OSError, UserError) as error:
                    failures.append(f"{url} ({type(error).__name__})")
                    continue
                os.replace(target, path)
                return content
        raise UserError(
            f"{self.name} is not in {folder} and could not be downloaded; tried {', '.join(failures)}. "
            f"Either copy the file to {folder}, or name the directory that has it with data_dir=DIR "
            f"or the environment variable IWAE_LAB_DATA"
        )

    def _verified(self, path: Path) -> bytes:
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError) as error:
            raise UserError(f"{path}: expected a gzip file ({error})") from None
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise UserError(f"{path}: expected unpacked content of sha256 {self.sha256}, found {found}")
        return content
