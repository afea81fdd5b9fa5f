"""A multirun outlives the processes of its jobs, and its jobs outlive a scheduler's warning."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import Command, records, wait_for
from hydra.core.utils import JobReturn, JobStatus

from iwae_lab.console.signals import WARNINGS, interrupt_on_signals, raise_dropped_interrupt
from iwae_lab.runs.gpus import WORKER
from iwae_lab.runs.jobs import Job, read_jobs, record_death

Cli = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Command]


def job(number: int, overrides: list[str], folder: Path) -> JobReturn:
    """What joblib's launcher calls, with a job that is quick, or ends as its override says."""
    Job(number, overrides).write(folder)
    if overrides == ["interrupted"]:
        Job(number, overrides, "interrupted").write(folder)
        sys.exit(1)
    if overrides != ["finished"]:
        os.kill(os.getpid(), getattr(signal, overrides[0]))
        time.sleep(60)
    (folder / f"place {os.environ[WORKER]}").touch()
    wait_for(lambda: len(list(folder.glob("place *"))) == 2)
    Job(number, overrides, "finished", reason=os.environ[WORKER]).write(folder)
    return JobReturn(status=JobStatus.COMPLETED, _return_value=float(number))


def test_a_job_that_is_killed_ends_no_other_and_is_listed_with_its_signal(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    from iwae_lab.runs.workers import use_workers_that_survive

    loky = joblib.parallel.BACKENDS["loky"]
    use_workers_that_survive(tmp_path, threading.Event())
    try:
        ends = ["finished", "SIGKILL", "interrupted", "finished", "SIGSEGV", "finished", "finished", "finished"]
        calls = (joblib.delayed(job)(number, [end], tmp_path) for number, end in enumerate(ends))
        returned = joblib.Parallel(n_jobs=2, backend="loky")(calls)
    finally:
        joblib.register_parallel_backend("loky", loky)
    expected = [float(number) if end == "finished" else float("inf") for number, end in enumerate(ends)]
    assert [result.return_value for result in returned] == expected
    jobs = read_jobs(tmp_path)
    assert [job.status for job in jobs] == [end if end in ("finished", "interrupted") else "killed" for end in ends]
    assert jobs[1].reason == "its process ended with SIGKILL(-9)"
    assert jobs[4].reason == "its process ended with SIGSEGV(-11)"
    assert {job.reason for job in jobs if job.status == "finished"} == {"0", "1"}, "both places are filled to the end"


def test_a_job_that_died_before_it_said_anything_is_listed(tmp_path: Path) -> None:
    record_death(tmp_path, 3, ["k=5", "hydra.verbose=false"], "its process ended")
    (job,) = read_jobs(tmp_path)
    assert (job.number, job.overrides, job.status, job.reason) == (3, ["k=5"], "killed", "its process ended")


def jobs_of(tmp_path: Path) -> list[Job]:
    """The jobs of the multirun that started last."""
    folders = sorted(tmp_path.glob("runs/.sweeps/*"))
    return read_jobs(folders[-1]) if folders else []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_survives_a_killed_worker_and_the_same_command_completes_it(
    start: Start, cli: Cli, tiny: list[str], tmp_path: Path, launcher: str
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher" if launcher == "joblib" else "submitit")
    at_a_time = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    command = ["-m", f"hydra/launcher={launcher}", *at_a_time, *tiny, "schedule.epochs=20", "seed=0,1,2,3"]
    process = start("train.py", *command)
    wait_for(lambda: list(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    victim = next(job for job in jobs_of(tmp_path) if job.status == "running")
    os.kill(victim.pid, signal.SIGKILL)
    ended = process.wait()
    said = ended.stdout
    assert ended.returncode == 1, said
    assert "3 finished" in said and "1 killed" in said
    (told,) = (line for line in said.splitlines() if line.startswith("killed: "))
    assert f"seed={victim.number}" in told
    assert ("SIGKILL(-9)" if launcher == "joblib" else "_log.err") in told
    done = cli("train.py", *command)
    assert done.returncode == 0, done.stderr
    assert "3 skipped" in done.stdout and "1 finished" in done.stdout
    assert [record["status"] for record in records(tmp_path / "runs")] == ["finished"] * 4


@pytest.mark.slow
def test_a_preempted_job_of_submitit_resumes_from_its_checkpoint_to_the_same_numbers(
    start: Start, cli: Cli, tiny: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    run = [*tiny, "schedule.epochs=20"]
    process = start("train.py", "-m", "hydra/launcher=submitit_local", *run)
    wait_for(lambda: list(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    (first,) = jobs_of(tmp_path)
    os.kill(first.pid, signal.SIGUSR2)  # which submitit's controller sends some time before the time limit
    wait_for(lambda: jobs_of(tmp_path)[0].status == "interrupted")
    (record,) = records(tmp_path / "runs")
    assert record["status"] == "interrupted"
    ended = process.wait()
    assert ended.returncode == 0, ended.stderr
    assert "1 finished" in ended.stdout
    (second,) = jobs_of(tmp_path)
    assert second.pid != first.pid
    (record,) = records(tmp_path / "runs")
    assert record["status"] == "finished"
    log = next(tmp_path.glob("runs/*/log.txt")).read_text()
    assert "interrupted" in log and "resuming from" in log.partition("interrupted")[2]
    assert cli("train.py", *run[:-2], f"runs_dir={tmp_path / 'whole'}", "schedule.epochs=20").returncode == 0
    (whole,) = records(tmp_path / "whole")
    assert whole["metrics"] == record["metrics"]


@pytest.mark.parametrize("warning", ["SIGUSR1", pytest.param("SIGUSR2", marks=pytest.mark.slow)])
def test_a_schedulers_warning_interrupts_a_run_and_the_same_command_resumes_it(
    start: Start, cli: Cli, tiny: list[str], tmp_path: Path, warning: str
) -> None:
    process = start("train.py", *tiny, "schedule.epochs=12")
    wait_for(lambda: list(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    os.kill(process.pid, getattr(signal, warning))
    assert process.wait().returncode == 130
    (record,) = records(tmp_path / "runs")
    assert record["status"] == "interrupted"
    done = cli("train.py", *tiny, "schedule.epochs=12")
    assert done.returncode == 0 and "resuming from" in done.stderr


def handled(runner: Callable[[int, object], None]) -> BaseException | None:
    """What ends what is running when a warning comes to a process whose job runner handles it by `runner`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *WARNINGS)}
    try:
        signal.signal(signal.SIGUSR2, runner)
        interrupt_on_signals()
        interrupt_on_signals()  # as `run` of a first stage, and of the second
        try:
            signal.raise_signal(signal.SIGUSR2)
        except BaseException as error:
            with pytest.raises(type(error)):
                raise_dropped_interrupt()  # had Python dropped it
            return error
        return None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_job_runners_own_handler_decides_how_a_job_ends() -> None:
    calls: list[int] = []

    def requeues(number: int, frame: object) -> None:
        calls.append(number)
        sys.exit(144)

    def gives_up(number: int, frame: object) -> None:
        raise RuntimeError("timed out too many times")

    requeued = handled(requeues)
    assert isinstance(requeued, SystemExit) and requeued.code == 144 and calls == [signal.SIGUSR2]
    assert isinstance(handled(gives_up), KeyboardInterrupt)
    assert handled(lambda number, frame: calls.append(0)) is None, "one that lets it pass, as submitit does SIGTERM"
    assert calls[1:] == [0]
