"""The command line, as a user meets it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from helpers.commands import ROOT, TINY, Command, records, wait_for
from helpers.datasets import images, npz
from omegaconf import DictConfig

from iwae_lab.runs.experiment import resolve

Cli = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Command]

KEYS = [
    "run_id", "status", "error", "dataset", "binarization", "protocol", "model", "objective", "k", "schedule", "seed",
    "epochs", "steps", "train_seconds", "images_per_second", "metrics", "config", "identity", "versions", "git",
    "started", "finished",
]  # fmt: skip
METRICS = [
    "test/nll", "test/nll_se", "test/nll_k", "test/elbo", "test/active_units", "test/nll_active_only", "val/nll",
    "train/bound",
]  # fmt: skip


@pytest.fixture(scope="module")
def first(fork_server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a run has printed, and its runs folder."""
    runs = tmp_path_factory.mktemp("first")
    done = Command(fork_server, runs, ["train.py", *TINY, "objective=iwae", f"runs_dir={runs}"], os.environ).wait()
    assert done.returncode == 0, done.stderr
    return done.stdout, runs


@pytest.fixture
def folder(first: tuple[str, Path], tmp_path: Path) -> Path:
    """A copy of that run's folder, in tmp_path/runs."""
    (original,) = (path.parent for path in first[1].glob("*/result.json"))
    return shutil.copytree(original, tmp_path / "runs" / original.name)


def test_a_run_leaves_a_whole_record(folder: Path, tmp_path: Path) -> None:
    (record,) = records(tmp_path / "runs")
    assert set(KEYS) <= record.keys()
    assert set(METRICS) <= record["metrics"].keys()
    assert (record["run_id"], record["status"], record["error"]) == (folder.name, "finished", None)
    named = [record[key] for key in ("objective", "model", "dataset", "k", "epochs", "steps")]
    assert named == ["iwae", "one_layer", "npz", 3, 2, 20]
    assert record["metrics"]["test/nll_k"] == 20
    assert record["metrics"]["test/nll"] < 250


def test_a_run_leaves_its_curve_figures_and_values_per_image(folder: Path, tmp_path: Path) -> None:
    (record,) = records(tmp_path / "runs")
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "log.txt", "checkpoints"}
    with np.load(folder / "per_image.npz") as per_image:
        assert per_image["bound_20"].shape == (30,)
        for k, key in ((20, "test/nll"), (5, "test/nll_5")):
            assert -per_image[f"bound_{k}"].mean() == pytest.approx(record["metrics"][key], rel=1e-12)
    figures = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    of_model = "samples", "reconstructions", "interpolations", "traversals"
    plots = "log_variances", "training_curve", "tightness", "active_units"
    assert figures.keys() == {f"{name}.png" for name in (*of_model, *plots)}
    assert all(content.startswith(b"\x89PNG") and len(content) > 2000 for content in figures.values())
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[1]["train/bound"]) == pytest.approx(record["metrics"]["train/bound"])
    assert float(rows[1]["train/bound"]) > float(rows[0]["train/bound"])


def test_a_run_ends_with_its_result_and_the_next_command(first: tuple[str, Path]) -> None:
    said, runs = first
    (record,) = records(runs)
    nll = f"{record['metrics']['test/nll']:.2f}"
    for shown in (nll, "± ", "active units", record["protocol"], f"python -m iwae_lab.compare {runs}"):
        assert shown in said


def test_a_finished_run_is_not_run_twice(cli: Cli, tiny: list[str], folder: Path) -> None:
    before = (folder / "result.json").read_bytes()
    again = cli("train.py", *tiny, "objective=iwae")
    assert again.returncode == 0
    assert "finished" in again.stderr and "force=true" in again.stderr
    assert f"{json.loads(before)['metrics']['test/nll']:.2f}" in again.stdout
    assert (folder / "result.json").read_bytes() == before


def test_evaluate_repeats_the_record_wherever_the_run_is(cli: Cli, folder: Path, tmp_path: Path) -> None:
    before = (folder / "result.json").read_bytes()
    moved = folder.rename(tmp_path / "moved")
    (tmp_path / "runs").rmdir()
    evaluated = cli("-m", "iwae_lab.evaluate", str(moved))
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.rstrip().endswith(": equal")
    assert repr(json.loads(before)["metrics"]["test/nll"]) in evaluated.stdout
    fewer = cli("-m", "iwae_lab.evaluate", str(moved), "evaluation.k=10", "evaluation.images=20")
    assert "L_10" in fewer.stdout and "equal" not in fewer.stdout
    rounded = cli("-m", "iwae_lab.evaluate", str(moved), "precision=bf16")
    assert rounded.returncode == 0 and "precision=bf16: off by" in rounded.stderr
    given_way = "so the test NLL is in fp32" in rounded.stderr  # rounding differs from machine to machine
    assert ("bf16" in rounded.stdout, rounded.stdout.rstrip().endswith(": equal")) == (not given_way, given_way)
    assert (moved / "result.json").read_bytes() == before and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.ais.images=1", "evaluation.ais.images=1: expected 0 or at least 2\n"),
        ("k=5", "k=5: expected one of"),
        ("precision=16", "precision=16: expected one of"),
    ],
)
def test_evaluate_refuses(cli: Cli, folder: Path, override: str, said: str) -> None:
    refused = cli("-m", "iwae_lab.evaluate", str(folder), override)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith(f"error: {said}")


def test_force_trains_once_more_to_the_same_numbers_and_keeps_the_first(
    cli: Cli, tiny: list[str], folder: Path, tmp_path: Path
) -> None:
    before = (folder / "result.json").read_bytes()
    forced = cli("train.py", *tiny, "objective=iwae", "force=true")
    assert forced.returncode == 0, forced.stderr
    (second,) = records(tmp_path / "runs")
    assert second["metrics"] == json.loads(before)["metrics"], "same seed, same machine: the same to the last digit"
    assert second["started"] > json.loads(before)["started"]
    (kept,) = (tmp_path / "runs" / ".replaced").iterdir()
    assert (kept / "result.json").read_bytes() == before

    (folder / "result.json").write_text(json.dumps(second | {"status": "running"}))
    resumed = cli("train.py", *tiny, "objective=iwae", "force=true")
    assert resumed.returncode == 0 and "resuming from" in resumed.stderr, "interrupted, it is not begun once more"
    assert list((tmp_path / "runs" / ".replaced").iterdir()) == [kept]


def test_a_run_is_known_by_its_images_wherever_they_are(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    arguments = ["train.py", *tiny, "dataset=npz", f"dataset.path={path}"]
    path.write_bytes(npz(train=images(50), test=images(30, seed=1)))
    assert cli(*arguments).returncode == 0
    path.rename(tmp_path / "moved.npz")
    again = cli(*arguments, f"dataset.path={tmp_path / 'moved.npz'}", "evaluation.images=null")
    assert "this run is finished" in again.stderr, "these 30 images are all there are"
    path.write_bytes(npz(train=images(50, seed=2), test=images(30, seed=1)))
    assert cli(*arguments).returncode == 0
    first, second = records(tmp_path / "runs")
    assert first["protocol"] != second["protocol"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["k=0"], "k=0"),
        (["k=abc"], "k=abc"),
        (["kk=5"], "kk"),
        (["objective=nope"], "objective=nope"),
        (["schedule.nope=1"], "schedule.nope"),
        (["runs_dir=/dev/null/runs"], "runs_dir=/dev/null/runs: expected a directory that can be written"),
        (["init_from={objective: vae}"], "objective=vae: expected the keys of an option"),
        (["k=[1"], "[1"),
        (["objective=null"], "objective=null: expected the name of one of the group's options"),
        (["seed=null", "objective=5"], "objective=5: expected the name of one of the group's options"),
        (["-m", "--cfg", "job"], "Only one of --run, --multirun, --cfg"),
        (["--objective=iwae"], "--objective=iwae: no such option (did you mean objective=iwae?)"),
        (["--experiment", "tiny"], "--experiment tiny: no such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(cli: Cli, arguments: list[str], named: str, tmp_path: Path) -> None:
    done = cli("train.py", f"runs_dir={tmp_path}", *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert named in done.stderr
    assert not any(path.is_dir() for path in tmp_path.iterdir()), "nothing was started"


@pytest.mark.parametrize("command", ["compare --by", "data fetchh", "evaluate --weights", "export", "runs.posteriors"])
def test_so_are_wrong_arguments_of_other_commands(cli: Cli, command: str) -> None:
    module, *arguments = command.split()
    done = cli("-m", f"iwae_lab.{module}", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: .*(expected|required|invalid).*; --help shows what is expected\n", done.stderr)


@pytest.mark.parametrize("argument", ["k=0", pytest.param("kk=5", marks=pytest.mark.slow)])
def test_the_traceback_is_there_for_who_asks(argument: str) -> None:
    done = subprocess.run(
        [sys.executable, "train.py", argument],
        cwd=ROOT, env=os.environ | {"HYDRA_FULL_ERROR": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_multirun_that_can_write_nothing_names_the_key(cli: Cli) -> None:
    done = cli("train.py", "-m", "runs_dir=/dev/null/runs", "k=1,2")
    assert done.returncode == 1
    assert done.stderr.endswith("error: runs_dir=/dev/null/runs: expected a directory that can be written\n")


def test_hydras_options_may_follow_overrides(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "objective").mkdir(parents=True)
    (tmp_path / "mine" / "objective" / "mine.yaml").write_text("name: mine\n_target_: iwae_lab.objectives.vae.VAE\n")
    done = cli("train.py", "k=2", "-cd", str(tmp_path / "mine"), "objective=mine", "--cfg", "job", "-p", "objective")
    assert done.returncode == 0 and "name: mine" in done.stdout, done.stderr
    done = cli("train.py", "k=2", "-cd", str(tmp_path / "none"), "objective=mine")
    assert done.stderr == f"error: --config-dir {tmp_path / 'none'}: expected a directory\n" and done.returncode == 1


def test_a_multirun_that_matches_nothing_is_an_error(cli: Cli, tmp_path: Path) -> None:
    done = cli("train.py", "-m", f"runs_dir={tmp_path}", "objective=glob(zzz*)")
    assert done.returncode == 1 and "error: a multirun without jobs: expected" in done.stderr


@pytest.mark.slow
def test_a_class_of_ones_own_is_found_in_the_current_directory(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from iwae_lab.objectives.iwae import IWAE\n\nclass Mine(IWAE):\n    pass\n")
    command = [sys.executable, str(ROOT / "train.py"), *tiny, "objective._target_=mine.Mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_failing_job_stops_no_other_and_is_recorded(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    """The second of three jobs diverges."""
    overrides = [*tiny, "schedule.learning_rate=0.001,1e30,0.002"]
    done = cli("train.py", "-m", *overrides)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    by_rate = {record["config"]["schedule"]["learning_rate"]: record for record in records(tmp_path / "runs")}
    assert [by_rate[rate]["status"] for rate in (0.001, 1e30, 0.002)] == ["finished", "diverged", "finished"]
    said = r"training diverged: the loss is (nan|-?inf) at step \d+ \(epoch 1, learning rate 1e\+30\); "
    assert re.match(said + r"first non-finite (value|gradient): model\.\w+", by_rate[1e30]["error"])
    assert "Traceback" in (tmp_path / "runs" / by_rate[1e30]["run_id"] / "log.txt").read_text()
    again = cli("train.py", "-m", *overrides)
    assert again.returncode == 1
    assert again.stderr.count("this run is finished") == 2, "and that of the diverged one says so"
    assert "diverged: the loss is" in again.stdout and "force=true to train it from the start" in " ".join(
        again.stdout.split()
    )


@pytest.mark.slow
def test_tasks_and_ranks_of_a_cluster_change_nothing(tiny: list[str], tmp_path: Path) -> None:
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "a", "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "RANK": "1"}
    command = [sys.executable, "train.py", *tiny]  # not forked: Lightning reads the rank when it is imported
    done = subprocess.run(command, cwd=ROOT, env=os.environ | slurm, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "runs")
    assert record["metrics"]["train/bound"] and list(tmp_path.glob("runs/*/metrics.csv"))


def test_a_second_job_for_a_run_waits_and_says_so(
    composed: Callable[..., DictConfig], start: Start, tiny: list[str], tmp_path: Path
) -> None:
    name = resolve(composed(*tiny)).run_id
    locks = tmp_path / "runs" / ".locks"
    locks.mkdir(parents=True)
    with FileLock(locks / f"{name}.lock"):
        second = start("train.py", *tiny)
        wait_for(lambda: "another process is using" in second.stderr.read_text())
        assert not records(tmp_path / "runs")
    assert second.wait().returncode == 0
    assert [record["status"] for record in records(tmp_path / "runs")] == ["finished"]


def test_help_lists_groups_options_and_keys_without_importing_torch() -> None:
    code = (
        "import atexit, runpy, sys; sys.argv = ['train.py', '--help']\n"
        "atexit.register(lambda: print(sorted({'torch', 'pytorch_lightning', 'wandb'} & set(sys.modules))))\n"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
    for word in ("objective=", "iwae", "model=", "two_layer", "schedule=", "paper", "evaluation.k=5000", "force="):
        assert word in done.stdout


@pytest.mark.slow
def test_init_from_starts_with_another_runs_weights(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    assert cli("train.py", *tiny, "objective=vae").returncode == 0
    (first,) = records(tmp_path / "runs")
    folder = tmp_path / "runs" / first["run_id"]
    done = cli("train.py", *tiny, "objective=iwae", f"init_from={folder}", "schedule.learning_rate=1e-7")
    assert done.returncode == 0, done.stderr
    (second,) = (record for record in records(tmp_path / "runs") if record["objective"] == "iwae")
    assert second["metrics"]["test/nll"] == pytest.approx(first["metrics"]["test/nll"], abs=0.1)
    muon = cli("train.py", *tiny, "objective=iwae", f"init_from={folder}", "optimizer=muon")
    assert muon.returncode == 0 and "that run's optimizer has other settings" in muon.stderr
    assert "other settings" not in done.stderr
    objective = ["objective=ciwae", "objective.learned=true"]  # has a parameter of its own
    assert cli("train.py", *tiny, *objective, f"init_from={folder}").returncode == 0
    (learned,) = (tmp_path / "runs").glob("*ciwae*")
    assert cli("train.py", *tiny, "objective=reinforce", f"init_from={learned}").returncode == 0
    before = set((tmp_path / "runs").iterdir())
    other = cli("train.py", *tiny, "model.latents=[5]", f"init_from={folder}")
    assert set((tmp_path / "runs").iterdir()) == before
    assert other.returncode == 1 and other.stderr.splitlines()[-1].startswith("error: init_from")
    (folder / "result.json").write_text(json.dumps(first | {"status": "running"}))
    early = cli("train.py", *tiny, "k=2", f"init_from={folder}")
    assert early.returncode == 1 and "expected a finished run, but its record says running" in early.stderr
