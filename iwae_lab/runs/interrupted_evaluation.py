"""The results of an unfinished evaluation, kept in a hidden file beside what is evaluated."""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import Diverged
from iwae_lab.evaluation.kept import Kept
from iwae_lab.runs.config import Config

__all__ = ["resumable"]

log = logging.getLogger("iwae_lab")

SECONDS_BETWEEN_WRITES = 60.0


@contextlib.contextmanager
def resumable(beside: Path, config: Config, precision: str = "32") -> Iterator[Kept]:
    """The results of an interrupted evaluation, to which this one adds its own.

    beside: the run's folder (which need not exist yet) or a file of weights. config, precision: each
    combination has its own file, which is written once per minute and on interruption, and removed at the end.
    """
    settings = json.dumps([dataclasses.asdict(config.evaluation), precision])
    name = f".evaluation-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    path = beside / name if beside.is_dir() else beside.with_name(f".{beside.name}{name}")
    kept = _Written(path, _read(path))
    try:
        yield kept
    except Diverged:  # so would the same command
        path.unlink(missing_ok=True)
        raise
    except BaseException:
        if kept.changed:
            kept.write()
            log.info("the same command resumes the evaluation where it was")
        raise
    with contextlib.suppress(OSError):  # of a missing file, on a read-only disk too
        path.unlink()


def _read(path: Path) -> dict[str, tuple[Any, ...]]:
    if not path.exists():
        return {}
    try:
        results: dict[str, tuple[Any, ...]] = torch.load(path, weights_only=True)
        log.info("resuming the evaluation from %s", path)
        return results
    except Exception as error:  # whatever torch raises for a damaged file, or one from another device
        log.warning("%s: can't be read, so the evaluation starts anew (%s)", path, str(error).partition("\n")[0])
        return {}


class _Written(dict[str, tuple[Any, ...]]):
    """A dictionary that is written to a file from time to time."""

    def __init__(self, path: Path, found: dict[str, tuple[Any, ...]]) -> None:
        super().__init__(found)
        self.path = path
        self.changed = False
        self.next = time.monotonic() + SECONDS_BETWEEN_WRITES

    def __setitem__(self, key: str, found: tuple[Any, ...]) -> None:
        super().__setitem__(key, found)
        self.changed = True
        if time.monotonic() > self.next:
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all. If that fails, warn once and continue."""
        buffer = io.BytesIO()
        torch.save(dict(self), buffer)
        try:
            write_atomically(self.path, buffer.getbuffer())
            self.next = time.monotonic() + SECONDS_BETWEEN_WRITES
        except OSError as error:
            self.next = math.inf
            log.warning("%s; if interrupted, this evaluation will start anew", error)
