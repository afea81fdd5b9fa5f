"""Fixtures shared by all tests: the command line, tiny runs, real data where it is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers of xdist would share the cores

import pytest
from helpers.commands import ROOT, TINY, Command, beginning
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from iwae_lab.runs.config import register

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
def fork_server() -> Iterator[subprocess.Popen[str]]:
    """The process that `cli` forks commands from."""
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "fork_server.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.fixture
def start(fork_server: subprocess.Popen[str], tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """start("train.py", *overrides) -> the command at work; what has not ended after the test is killed."""
    with beginning(fork_server, tmp_path, dict(os.environ)) as begin:
        yield begin


@pytest.fixture
def cli(fork_server: subprocess.Popen[str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """cli("train.py", *overrides) or cli("-m", module, …) -> what `python …` did, in the root of the project."""
    return lambda *arguments, **environment: Command(fork_server, tmp_path, arguments, os.environ | environment).wait()


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides of a run that takes a second or two, into tmp_path/runs."""
    return [*TINY, f"runs_dir={tmp_path / 'runs'}"]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; skips where there is none."""
    for folder in (os.environ.get("IWAE_LAB_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "mnist").is_dir():
            return Path(folder)
    pytest.skip("no real datasets: neither $IWAE_LAB_DATA nor ../shared/data has mnist/")
