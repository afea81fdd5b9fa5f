"""Fixtures shared by all tests: the command line, tiny runs, real data where it is."""

import atexit
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from iwae_lab.runs.config import register

ROOT = Path(__file__).parent.parent


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

register()


@pytest.fixture(autouse=True)
def errors_stay_one_line() -> Iterator[None]:
    """`one_line_errors` asks Hydra for tracebacks in the environment, which commands of later tests would inherit."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    yield
    if before is None:
        os.environ.pop("HYDRA_FULL_ERROR", None)
    else:
        os.environ["HYDRA_FULL_ERROR"] = before


@pytest.fixture
def composed() -> Callable[..., DictConfig]:
    """composed(*overrides) -> the configuration the command line would compose."""

    def make(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("config", overrides=list(overrides))

    return make


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen[str]]:
    """The process that `cli` forks commands from."""
    command = [sys.executable, str(Path(__file__).parent / "zygote.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


class Command:
    """`python *arguments` at work in `cwd`, the leader of a process group; its output is kept in `folder`."""

    def __init__(
        self,
        zygote: subprocess.Popen[str],
        folder: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path = ROOT,
    ) -> None:
        self.zygote, self.arguments = zygote, arguments
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
        assert self.zygote.stdin and self.zygote.stdout
        self.zygote.stdin.write(json.dumps(request) + "\n")
        self.zygote.stdin.flush()
        return int(self.zygote.stdout.readline())


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def start(zygote: subprocess.Popen[str], tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """start("train.py", *overrides) -> the command at work; what has not ended after the test is killed."""
    started: list[Command] = []

    def begin(*arguments: str, **environment: str) -> Command:
        started.append(Command(zygote, tmp_path, arguments, os.environ | environment))
        return started[-1]

    yield begin
    for command in started:
        command.kill()


@pytest.fixture
def cli(zygote: subprocess.Popen[str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """cli("train.py", *overrides) or cli("-m", module, …) -> what `python …` did, in the root of the project."""
    return lambda *arguments, **environment: Command(zygote, tmp_path, arguments, os.environ | environment).wait()


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides of a run that takes a second or two, into tmp_path/runs."""
    return [*TINY, f"runs_dir={tmp_path / 'runs'}"]


def records(folder: Path) -> list[dict[str, Any]]:
    """Every result.json in a runs folder, by run_id."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; skips where there is none."""
    for folder in (os.environ.get("IWAE_LAB_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "mnist").is_dir():
            return Path(folder)
    pytest.skip("no real datasets: neither $IWAE_LAB_DATA nor ../shared/data has mnist/")
