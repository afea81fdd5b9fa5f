"""TensorBoard's event files hold the curves and the figures of a run."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import records
from helpers.records import make_run

from iwae_lab.loggers.tensorboard import TensorBoard
from iwae_lab.runs.record import read_metrics, read_record

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
    logger.start([])
    logger.log_metrics({"train/bound": -90.0}, 7)
    logger.save()
    (event,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/bound")
    logger.close(failed=True)
    assert (event.step, event.value) == (7, -90.0)


def test_a_finished_run_is_logged_without_training_and_once(
    cli: Callable[..., subprocess.CompletedProcess[str]], tiny: list[str], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert cli("train.py", *tiny).returncode == 0
    before = records(tmp_path / "runs")
    for _ in range(2):
        done = cli("train.py", *tiny, "logger=tensorboard")
        assert done.returncode == 0 and "this run is finished" in done.stderr, done.stderr
    (record,) = records(tmp_path / "runs")
    assert [record] == before
    folder = tmp_path / "runs" / record["run_id"]
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    rows = read_metrics(folder)
    assert [event.step for event in found.Scalars("train/bound")] == [row["step"] for row in rows]
    assert [event.value for event in found.Scalars("test/nll")] == pytest.approx([record["metrics"]["test/nll"]])
    assert set(found.Tags()["images"]) == {f"figures/{path.stem}" for path in (folder / "figures").glob("*.png")}


def test_a_resumed_run_is_given_what_is_missing_only(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = read_record(make_run(tmp_path))
    rows = [{"step": step, "train/bound": -float(step)} for step in (1, 2, 3)]
    for known in (1, 3):
        logger = TensorBoard(folder=tmp_path, record=record)
        logger.start(rows[:known])
        logger.log_metrics({"train/bound": -float(known)}, known)  # the epoch after the checkpoint, once more
        logger.close(failed=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/bound")
    assert [(event.step, event.value) for event in events] == [(1, -1.0), (2, -2.0), (3, -3.0)]
