"""What train.py's main returns to Hydra: the value for a sweeper to minimise."""

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import records

CALLBACK = '''
import json
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf


class Returned(Callback):
    """Adds to a file what each job returned, and to another one what Hydra's sweeper got."""

    def __init__(self, file):
        self.file = file

    def on_job_end(self, config, job_return, **kwargs):
        with open(self.file, "a") as file:
            file.write(json.dumps(job_return.return_value) + "\\n")

    def on_multirun_start(self, config, **kwargs):
        OmegaConf.save = lambda *given: None  # Optuna's sweeper leaves no multirun.yaml
        sweep = BasicSweeper.sweep

        def watched(sweeper, arguments):
            batches = sweep(sweeper, arguments)
            with open(self.file + ".sweeper", "w") as file:
                json.dump([job.return_value for batch in batches for job in batch if job.cfg is None], file)
            return batches

        BasicSweeper.sweep = watched
'''


def test_main_returns_the_validation_nll_and_infinity_for_a_failed_job(
    cli: Callable[..., subprocess.CompletedProcess[str]], tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "returned.py").write_text(CALLBACK)
    file = tmp_path / "returned.jsonl"
    watched = [*tiny, "+hydra.callbacks.returned._target_=returned.Returned", f"+hydra.callbacks.returned.file={file}"]
    single = cli("train.py", *watched, PYTHONPATH=str(tmp_path))
    assert single.returncode == 0, single.stderr
    (record,) = records(tmp_path / "runs")
    rates = "schedule.learning_rate=0.002,1e30"  # the latter makes the loss NaN
    multirun = cli("train.py", *watched, rates, "hydra.mode=MULTIRUN", PYTHONPATH=str(tmp_path))
    assert multirun.returncode == 1, multirun.stderr
    (other,) = (run for run in records(tmp_path / "runs") if run["status"] == "finished" and run != record)
    returned = [json.loads(line) for line in file.read_text().splitlines()]
    assert returned == [record["metrics"]["val/nll"], other["metrics"]["val/nll"], math.inf]
    assert json.loads(Path(f"{file}.sweeper").read_text()) == returned[1:]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweeper_gets_the_values_of_jobs_in_other_processes(
    cli: Callable[..., subprocess.CompletedProcess[str]], tiny: list[str], tmp_path: Path, launcher: str
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher" if launcher == "joblib" else "submitit")
    (tmp_path / "returned.py").write_text(CALLBACK)
    file = tmp_path / "returned.jsonl"
    watched = ["+hydra.callbacks.returned._target_=returned.Returned", f"+hydra.callbacks.returned.file={file}"]
    rates = "schedule.learning_rate=0.002,1e30"
    done = cli("train.py", "-m", f"hydra/launcher={launcher}", *tiny, *watched, rates, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stderr
    (good,) = (record for record in records(tmp_path / "runs") if record["status"] == "finished")
    assert json.loads(Path(f"{file}.sweeper").read_text()) == [good["metrics"]["val/nll"], math.inf]
