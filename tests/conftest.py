"""Fixtures shared by all tests: the command line, tiny runs, real data where it is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from iwae_lab.runs.config import register

ROOT = Path(__file__).parent.parent
TINY = [
    "logger=csv", "threads=1",
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


def ask(
    zygote: subprocess.Popen[str],
    folder: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path = ROOT,
) -> subprocess.CompletedProcess[str]:
    """What `python *arguments` did in `cwd`; its output is kept in `folder`."""
    stdout, stderr = folder / ".stdout", folder / ".stderr"
    request = {
        "argv": arguments, "cwd": str(cwd), "env": dict(environment), "stdout": str(stdout), "stderr": str(stderr)
    }  # fmt: skip
    assert zygote.stdin and zygote.stdout
    zygote.stdin.write(json.dumps(request) + "\n")
    zygote.stdin.flush()
    code = int(zygote.stdout.readline())
    return subprocess.CompletedProcess(arguments, code, stdout.read_text(), stderr.read_text())


@pytest.fixture
def cli(zygote: subprocess.Popen[str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """cli("train.py", *overrides) or cli("-m", module, …) -> what `python …` did, in the root of the project."""
    return lambda *arguments, **environment: ask(zygote, tmp_path, arguments, os.environ | environment)


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
