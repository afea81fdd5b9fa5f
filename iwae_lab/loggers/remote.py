"""Calls into another process, which can hang or die without harm to this one."""

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["Remote", "RemoteError"]


class RemoteError(Exception):
    """What a call raised in the other process, or how that process ended; one line."""


class Remote:
    """Runs the Python file `file` in another process and makes calls there, one after the other.

    The file reads pickled calls, (name, arguments, limit in seconds), from stdin and answers each on stdout with
    (error or None, value).
    failure: the first error of any call, None while there is none.
    """

    def __init__(self, file: Path, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.failure: str | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(file), *arguments],  # -P: modules beside the file are not importable
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._calls = ThreadPoolExecutor(max_workers=1)

    def send(self, name: str, limit: float, /, **arguments: Any) -> Future[Any]:
        """Make a call without waiting for it. The other process ends itself if that takes over `limit` seconds."""
        return self._calls.submit(self._exchange, (name, arguments, limit))

    def ask(self, name: str, limit: float, /, **arguments: Any) -> Any:
        """The result of a call. Raises `RemoteError` if it fails, or takes over `limit` seconds with earlier ones."""
        try:
            return self.send(name, limit, **arguments).result(limit)
        except TimeoutError:
            raise RemoteError(f"no answer within {limit:g} seconds") from None

    def _exchange(self, call: tuple[str, dict[str, Any], float]) -> Any:
        assert self._process.stdin and self._process.stdout
        try:
            pickle.dump(call, self._process.stdin)
            self._process.stdin.flush()
            error, value = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.PickleError):
            error = f"its process ended with exit code {self._process.wait()}"
        if error:
            self.failure = self.failure or error
            raise RemoteError(error)
        return value

    def end(self, grace: float = 0.0) -> None:
        """End the process, by force unless it ends within `grace` seconds after its last call."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if grace:
                self._process.stdin.close()
                self._process.wait(grace)
        self._process.kill()
        self._process.wait()
        self._calls.shutdown(cancel_futures=True)
        self._process.stdout.close()
        with contextlib.suppress(OSError):  # unread input
            self._process.stdin.close()
