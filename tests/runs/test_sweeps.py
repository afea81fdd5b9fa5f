"""The sweeps in sweeps/: every job composes and is checked; a multirun tells what became of each job."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from helpers.commands import ROOT, records
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.runs.config import first_stage
from iwae_lab.runs.experiment import resolve
from iwae_lab.runs.launch import name_of

Cli = Callable[..., subprocess.CompletedProcess[str]]

NAMES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
JOBS = {"smoke": 4, "table1": 10, "table2_finetune": 2}


def jobs(name: str) -> list[DictConfig]:
    """The configuration of every job of a sweep."""
    here = [f"hydra.searchpath=[file://{ROOT / 'conf'}]"]
    with initialize_config_dir(str(ROOT / "sweeps"), version_base="1.3"):
        sweep = compose(name, here, return_hydra_config=True).hydra.sweeper
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides([f"{key}={value}" for key, value in sweep.params.items()])
        (batch,) = BasicSweeper.split_arguments(overrides, None)
        return [compose(name, [*here, *job]) for job in batch]


def identity(cfg: DictConfig) -> str:
    """The id of the run, were it not to start from another."""
    alone = cfg.copy()
    alone.init_from = None
    return resolve(alone).run_id


@pytest.mark.parametrize("name", [n if n in JOBS else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_every_job_of_a_sweep_can_be_run_and_differs_from_the_others(name: str) -> None:
    found = jobs(name)
    identities = set()
    for cfg in found:
        resolve(cfg)
        identities.add(identity(cfg))
    assert len(identities) == len(found) == JOBS.get(name, len(found))


def test_objectives_are_compared_at_about_ten_evaluations_of_the_model_per_image() -> None:
    torch.manual_seed(0)
    rows: list[int] = []
    model = HierarchicalModel([3], [[4]], mean_image=torch.rand(6))
    model.decoder[0].register_forward_hook(lambda layer, inputs, output: rows.append(len(inputs[0])))
    for cfg in jobs("objectives"):
        objective = resolve(cfg).objective
        rows.clear()
        for _ in range(200):
            objective(model, torch.ones(1, 6), cfg.k)
        assert 7 <= sum(rows) / 200 <= 13, cfg.objective.name


def test_the_first_stage_of_table_2_is_a_cell_of_table_1() -> None:
    cells = {identity(cfg) for cfg in jobs("table1")}
    assert {identity(first_stage(cfg)) for cfg in jobs("table2_finetune")} <= cells


def test_a_missing_first_stage_is_trained_first_and_once(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    short = [
        f"{key}{value}" for key in ("", "init_from.") for value in ("schedule.epochs=2", "schedule.batch_size=200")
    ]
    sweep = ["-cd", "sweeps", "-cn", "table2_finetune", *tiny, *short]
    done = cli("train.py", *sweep, "cell=vae_then_iwae")
    assert done.returncode == 0, done.stderr
    first, second = sorted(records(tmp_path / "runs"), key=lambda record: record["k"])
    assert (first["objective"], first["k"], second["objective"], second["k"]) == ("vae", 1, "iwae", 3)  # TINY's k
    assert Path(second["config"]["init_from"]).name == first["run_id"]
    again = cli("train.py", *sweep, "cell=vae_then_iwae")
    assert again.returncode == 0 and "1 skipped" in again.stdout
    assert len(records(tmp_path / "runs")) == 2
    shutil.rmtree(tmp_path / "runs" / first["run_id"])
    again = cli("train.py", *sweep, "cell=vae_then_iwae")
    assert again.returncode == 0 and "1 skipped" in again.stdout
    assert [record["run_id"] for record in records(tmp_path / "runs")] == [second["run_id"]]


def test_a_sweep_issued_again_runs_what_is_not_finished(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    tiny = [*tiny, "logger=csv"]
    failed = cli("train.py", "-m", *tiny, "k=3,0")
    assert failed.returncode == 1
    assert "1 finished" in failed.stdout and "1 failed" in failed.stdout
    assert len(re.findall("^failed: .*k=0: expected", failed.stdout, re.MULTILINE)) == 1
    mended = cli("train.py", "-m", *tiny, "k=3,2")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "1 skipped" in mended.stdout and "1 finished" in mended.stdout


def test_unlike_multiruns_have_unlike_names_that_fit_wandb() -> None:
    long = [f"{key}={'x' * 50}" for key in "abc"]
    assert name_of(["k=1,5", "a=2"]) == name_of(["a=2", "k=1,5"]) == "a=2 k=1,5"
    assert name_of([*long, "z=1"]) == name_of(["z=1", *long]) != name_of([*long, "z=2"])
    assert len(name_of(long)) == 128


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps" / "wandb").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_a_wandb_agent_runs_is_a_valid_command_line(path: Path, composed: Callable[..., DictConfig]) -> None:
    sweep = yaml.safe_load(path.read_text())
    assert sweep["program"] == "train.py" and sweep["method"] in ("grid", "bayes")
    given = {key: p.get("values", [p.get("min")])[0] for key, p in sweep["parameters"].items()}
    command = [word for word in sweep["command"] if word not in ("${env}", "python", "${program}")]
    position = command.index("${args_no_hyphens}")
    command[position : position + 1] = [f"{key}={value}" for key, value in given.items()]
    resolve(composed(*command))


def test_jobs_of_a_multirun_in_directories_of_their_own_are_refused(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    done = cli("train.py", "-m", *tiny[:-1], f"runs_dir={tmp_path / 'a'},{tmp_path / 'b'}")
    assert done.returncode == 1
    assert f"error: runs_dir={tmp_path / 'a'}: expected one directory for all jobs of a multirun" in done.stderr
