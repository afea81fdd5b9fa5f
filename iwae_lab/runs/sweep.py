"""Multiruns: a failing job does not stop the others, and a table at the end shows the status of each."""

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from iwae_lab.console.atomic import writable
from iwae_lab.console.errors import UserError
from iwae_lab.console.explain import explain
from iwae_lab.console.signals import WARNINGS, interrupt
from iwae_lab.evaluation.keys import TEST_NLL, VAL_NLL
from iwae_lab.runs.gpus import take_gpu
from iwae_lab.runs.jobs import Job, read_jobs
from iwae_lab.runs.launch import check_launcher, prepare_job
from iwae_lab.runs.record import now
from iwae_lab.runs.startup import load_run

__all__ = ["Sweep", "reported", "run_job"]

log = logging.getLogger(__name__)


class Sweep(Callback):
    """Hydra callback in the process that starts a multirun.

    Keeps the sweep's folder, interrupts its jobs on a signal, keeps launchers going when a job's process is killed, and
    reduces a job's return to its value.
    """

    folder: ClassVar[Path | None] = None
    stopping: ClassVar[threading.Event] = threading.Event()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir)
        with contextlib.suppress(OSError):  # jobs say so
            Sweep.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, Sweep.folder / "multirun.yaml")  # as Hydra's basic sweeper does, but not Optuna's
        for number in (signal.SIGINT, *WARNINGS):
            signal.signal(number, _interrupt_jobs)
        launcher = config.hydra.launcher._target_
        if ".hydra_joblib_launcher." in launcher:
            from iwae_lab.runs.workers import use_workers_that_survive

            use_workers_that_survive(Sweep.folder, Sweep.stopping)
        elif ".hydra_submitit_launcher." in launcher:
            from iwae_lab.runs.submitted import wait_for_all

            wait_for_all(Sweep.folder)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        job_return.cfg = job_return.hydra_cfg = None  # else the multirun's process would hold those of all its jobs


def _interrupt_jobs(number: int, frame: Any) -> NoReturn:
    """Interrupt the jobs in other processes of this machine, wait for their records (10 seconds at most), then stop.

    Jobs get a second before they are interrupted, since Ctrl-C in a terminal has already reached them. Without this,
    launchers kill them.
    """
    Sweep.stopping.set()
    start = time.monotonic()
    interrupted = set()
    while (running := _running_elsewhere()) and (waited := time.monotonic() - start) < 10:
        for job in running:
            if waited > 1 and job.number not in interrupted:
                interrupted.add(job.number)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGINT)
        time.sleep(0.02)
    interrupt(number, frame)


def _running_elsewhere() -> list[Job]:
    """The jobs that are running in other processes of this machine."""
    jobs = read_jobs(Sweep.folder) if Sweep.folder else []
    here = [job for job in jobs if job.host == socket.gethostname() and job.pid != os.getpid()]
    return [job for job in here if job.status == "running"]


def run_job(cfg: DictConfig) -> float:
    """`run` as a job of a multirun: errors are recorded instead of raised, so that the other jobs continue.

    Returns the validation NLL in nats; infinity if the job failed, so that no sweeper chooses it.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if not (folder / "multirun.yaml").is_file():  # in the sweep's folder
        raise UserError(f"runs_dir={cfg.runs_dir}: expected one directory for all jobs of a multirun")
    check_launcher(folder / "multirun.yaml")
    job = Job(hydra.job.num, list(hydra.overrides.task))
    job.write(folder)
    start = now()

    def note_log(path: Path) -> None:
        job.log = str(path)
        job.write(folder)

    try:
        prepare_job()
        run = load_run()  # here, since the multirun's own process may not need it
        take_gpu()
        record = run(cfg, note_log)
        job.run_id, job.nll = record.run_id, record.metrics[TEST_NLL]
        job.status = "skipped" if (record.finished or "") < start else "finished"
        return record.metrics[VAL_NLL]
    except Exception as error:
        job.status, job.reason = "failed", explain(error)
        log.error("failed: %s", job.reason)
        return math.inf
    except BaseException:
        job.status = "interrupted"
        raise
    finally:
        job.write(folder)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Print the status of the jobs when the multirun inside ends, even if it is interrupted.

    Exits with code 1 unless all of them are finished. Raises `UserError` if there are none.
    """
    try:
        yield
    except OSError:
        if Sweep.folder and not writable(Sweep.folder):
            runs_dir = Sweep.folder.parent.parent
            raise UserError(f"runs_dir={runs_dir}: expected a directory that can be written") from None
        raise
    finally:
        jobs = read_jobs(Sweep.folder) if Sweep.folder else []
        if jobs:
            _print_jobs(jobs)
    if Sweep.folder and not jobs:
        raise UserError("a multirun without jobs: expected a value for each key, and glob(…) to match an option")
    if any(job.status not in ("finished", "skipped") for job in jobs):
        sys.exit(1)


def _print_jobs(jobs: list[Job]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()

    def name(job: Job) -> str:
        return " ".join(override for override in job.overrides if override not in common)

    table = Table("job", "status", "test NLL", title="multirun", title_justify="left")
    for job in jobs:
        nll = "" if job.nll is None else f"{job.nll:.2f}"
        table.add_row(Text(name(job)), job.status, nll)
    console = Console()
    console.print(table)
    for job in jobs:
        if job.reason:
            log_file = f"  ({job.log})" if job.log else ""
            console.print(
                f"{job.status}: {name(job)}: {job.reason}{log_file}", soft_wrap=True, markup=False, highlight=False
            )
    counts = Counter(job.status for job in jobs)
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts.keys() - {"finished", "skipped"}:
        console.print("the same command runs what is not finished and has not diverged")
