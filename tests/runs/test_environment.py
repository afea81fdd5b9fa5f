"""What surrounds a job: cores, home, installation, a launcher, and a directory that Hydra changes."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT, records
from helpers.records import make_run
from omegaconf import DictConfig

from iwae_lab.console.cores import available_cores
from iwae_lab.console.errors import UserError
from iwae_lab.console.names import check_name
from iwae_lab.runs.config import check
from iwae_lab.runs.record import Record

Cli = Callable[..., Any]


@pytest.mark.parametrize("command", [["train.py", "--help"], ["-m", "iwae_lab.compare", "RUNS", "--out", "OUT"]])
def test_a_locale_without_unicode_is_no_hindrance(command: list[str], tmp_path: Path) -> None:
    make_run(tmp_path / "RUNS")
    arguments = [str(tmp_path / word) if word.isupper() else word for word in command]
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=ascii_only, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("4,2", 4), ("99", 8), ("", 8), ("many", 8), ("0", 1)])
def test_omp_num_threads_is_respected(
    value: str, expected: int, eight_cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert available_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/", {"cpu.max": "300000 100000"}, 3),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "nonsense"}, 8),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/host/only", {"cpu.max": "300000 100000"}, 3),
        ("4:cpu,cpuacct:/\n0::/", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "400000", "cpu/x/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("4:memory:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_containers_quota_is_respected(
    cgroup: str, files: dict[str, str], expected: int, eight_cores: None, tmp_path: Path
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup + "\n")
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert available_cores(tmp_path) == expected


def test_home_is_understood_in_runs_dir(
    composed: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check(composed("runs_dir='~/runs'")).runs_dir == str(tmp_path / "runs")


def test_a_copy_that_nobody_installed_can_write_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    names = dict.fromkeys(("run_id", "dataset", "binarization", "protocol", "model", "objective", "schedule"), "a")
    record = Record(**names, k=1, seed=0, epochs=1, config={}, identity={})  # type: ignore[arg-type]
    assert record.versions["iwae-lab"] == "not installed"


@pytest.mark.parametrize("name", ["iwae", 2024, "2024", "a.b_c-d+e", "x" * 32])
def test_a_name_is_text(name: object) -> None:
    assert check_name("objective.name", name) == str(name)


def test_a_number_may_be_a_name(composed: Callable[..., DictConfig]) -> None:
    assert check(composed("objective.name=2024")).objective["name"] == "2024"


def test_several_options_of_a_group_are_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("train.py", f"runs_dir={tmp_path / 'runs'}", "dataset=[mnist,omniglot]")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "dataset=[mnist,omniglot]: expected one option" in done.stderr and "-m" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("experiments", "jobs"), [pytest.param("mine", 2, marks=pytest.mark.slow), ("mine,other", 0)])
def test_a_launcher_in_an_experiment_file_is_used_or_refused(
    cli: Cli, tiny: list[str], tmp_path: Path, experiments: str, jobs: int
) -> None:
    """Refused where experiments are swept over, since Hydra then launches before it reads them."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "conf/experiment").mkdir(parents=True)
    for name in ("mine", "other"):
        (tmp_path / f"conf/experiment/{name}.yaml").write_text(
            "# @package _global_\ndefaults:\n  - override /hydra/launcher: joblib\n"
        )
    search = f"hydra.searchpath=[{tmp_path / 'conf'}]"
    done = cli("train.py", "-m", search, *tiny, "schedule.epochs=1", f"experiment={experiments}", "seed=0,1")
    assert done.returncode == (not jobs), done.stderr
    assert len(records(tmp_path / "runs")) == jobs
    assert jobs or "hydra/launcher=joblib: expected on the command line" in done.stderr


def test_bad_data_leave_no_run_folder(cli: Cli, tmp_path: Path) -> None:
    done = cli("train.py", f"runs_dir={tmp_path / 'runs'}", "dataset=mnist", IWAE_LAB_DATA="/etc/passwd")
    assert done.returncode == 1 and "IWAE_LAB_DATA=/etc/passwd: expected a directory" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_results_land_in_runs_dir_where_hydra_changes_the_directory(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    relative = os.path.relpath(tmp_path / "runs")
    jobs = [*tiny[:-1], f"runs_dir={relative}", "schedule.epochs=1", "seed=0,1"]
    done = cli("train.py", "-m", *jobs, "hydra.job.chdir=true")
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in records(tmp_path / "runs")] == ["finished"] * 2


def test_the_name_rule_refuses_other_types() -> None:
    with pytest.raises(UserError, match=r"^objective.name=null: expected a name"):
        check_name("objective.name", None)
