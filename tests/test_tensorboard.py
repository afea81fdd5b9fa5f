"""TensorBoard's event files hold the curves and the figures of a run."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from compare_helpers import make_run
from conftest import records

from iwae_lab.loggers.metrics_csv import read_metrics
from iwae_lab.loggers.tensorboard import TensorBoard
from iwae_lab.record import read_record

pytest.importorskip("tensorboard")


def test_event_files_hold_history_result_and_figures(
    cli: Callable[..., subprocess.CompletedProcess[str]], tiny: list[str], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = cli("train.py", *tiny, "logger=tensorboard")
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "runs")
    folder = tmp_path / "runs" / record["run_id"]
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    rows = {row["step"]: row["val/bound"] for row in read_metrics(folder)}
    assert {event.step: event.value for event in found.Scalars("val/bound")} == pytest.approx(rows)
    (nll,) = found.Scalars("test/nll")
    assert nll.value == pytest.approx(record["metrics"]["test/nll"])
    assert set(found.Tags()["images"]) == {f"figures/{path.stem}" for path in (folder / "figures").glob("*.png")}
    assert "test/log10_unit_variances/1" in found.Tags()["histograms"]


def test_what_is_saved_outlives_a_kill(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(folder=tmp_path, record=read_record(make_run(tmp_path)))
    logger.log_metrics({"train/bound": -90.0}, 7)
    logger.save()
    (event,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/bound")
    logger.close(failed=True)
    assert (event.step, event.value) == (7, -90.0)
