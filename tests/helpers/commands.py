"""Commands in forks of one process, and what a tiny run needs."""

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent.parent


def blobs() -> Path:
    """A .npz of 1,000 training, 60 validation and 60 test images: a bright spot somewhere on a dark ground."""
    folder = tempfile.mkdtemp(prefix="iwae_lab-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    centres = np.random.RandomState(0).uniform(6, 22, (2, 1120, 1))
    rows, columns = (np.exp(-(((np.arange(28) - centre) / 4) ** 2)) for centre in centres)
    grey = (255 * rows[:, :, None] * columns[:, None, :]).astype(np.uint8)
    path = Path(folder) / "blobs.npz"
    np.savez(path, train=grey[:1000], val=grey[1000:1060], test=grey[1060:])
    return path


TINY = [
    "logger=csv", "threads=1", "dataset=npz", f"dataset.path={blobs()}",
    "schedule.epochs=2", "schedule.batch_size=100", "k=3", "evaluation.k=20", "evaluation.images=30",
    "model.latents=[4]", "model.hidden=[[8]]",
]  # fmt: skip


class Command:
    """`python *arguments` at work in `cwd`, the leader of a process group; its output is kept in `folder`."""

    def __init__(
        self,
        fork_server: subprocess.Popen[str],
        folder: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path = ROOT,
    ) -> None:
        self.fork_server, self.arguments = fork_server, arguments
        name = secrets.token_hex(4)
        self.stdout, self.stderr = folder / f".{name}.out", folder / f".{name}.err"
        self.stderr.touch()
        self.pid = self._ask(
            argv=list(arguments), cwd=str(cwd), env=dict(environment), stdout=str(self.stdout), stderr=str(self.stderr)
        )
        self.done: subprocess.CompletedProcess[str] | None = None

    def wait(self) -> subprocess.CompletedProcess[str]:
        """What it did, once it has ended."""
        if self.done is None:
            code = self._ask(wait=self.pid)
            self.done = subprocess.CompletedProcess(
                self.arguments, code, self.stdout.read_text(), self.stderr.read_text()
            )
        return self.done

    def kill(self) -> None:
        """End it, and what it has started, unless it has ended."""
        if self.done is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()

    def _ask(self, **request: Any) -> int:
        assert self.fork_server.stdin and self.fork_server.stdout
        self.fork_server.stdin.write(json.dumps(request) + "\n")
        self.fork_server.stdin.flush()
        return int(self.fork_server.stdout.readline())


@contextlib.contextmanager
def beginning(
    fork_server: subprocess.Popen[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[Callable[..., Command]]:
    """A function that begins commands, (*arguments, **more of the environment); what has not ended is killed."""
    begun: list[Command] = []

    def begin(*arguments: str, **more: str) -> Command:
        begun.append(Command(fork_server, folder, arguments, environment | more))  # type: ignore[operator]
        return begun[-1]

    try:
        yield begin
    finally:
        for command in begun:
            command.kill()


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def records(folder: Path) -> list[dict[str, Any]]:
    """Every result.json in a runs folder, by run_id."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
