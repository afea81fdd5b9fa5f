"""Multiruns: one failing job stops no other, and at the end it is told what became of each."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import UserError, explain
from iwae_lab.console.signals import interrupt
from iwae_lab.evaluation.keys import TEST_NLL, VAL_NLL
from iwae_lab.runs.record import now
from iwae_lab.runs.startup import load_run

__all__ = ["Job", "Sweep", "reported", "run_job"]

log = logging.getLogger(__name__)


@dataclass
class Job:
    """What became of one job of a multirun; kept in the sweep's folder, so that every launcher can tell."""

    number: int
    overrides: list[str]
    status: str = "running"
    """running, finished, skipped (was finished before), failed or interrupted"""
    run_id: str | None = None
    nll: float | None = None
    reason: str | None = None
    log: str | None = None
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def write(self, folder: Path) -> None:
        """Write job-<number>.json, whole or not at all."""
        write_atomically(folder / f"job-{self.number}.json", json.dumps(dataclasses.asdict(self)))


class Sweep(Callback):
    """Hydra callback of the process that started a multirun: knows its folder, and ends its jobs before it ends."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt_jobs)


def _interrupt_jobs(number: int, frame: Any) -> NoReturn:
    """Interrupt the jobs in other processes here, let them write their records, then this process.

    A terminal has interrupted them already: they get a second to say so. Without this, launchers kill them.
    """
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
    """The running jobs in other processes of this machine."""
    jobs = _read_jobs(Sweep.folder) if Sweep.folder else []
    here = [job for job in jobs if job.host == socket.gethostname() and job.pid != os.getpid()]
    return [job for job in here if job.status == "running"]


def run_job(cfg: DictConfig) -> float:
    """`run` as a job of a multirun: an error is written down, not raised, so that the others go on.

    Returns the validation NLL in nats; infinity for a job that failed, which no sweeper then chooses.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if not (folder / "multirun.yaml").is_file():  # which Hydra wrote into that of the sweep
        raise UserError(f"runs_dir={cfg.runs_dir}: expected one directory for all jobs of a multirun")
    job = Job(hydra.job.num, list(hydra.overrides.task))
    job.write(folder)
    start = now()
    try:
        record = load_run()(cfg)  # here, since the multirun's own process may not need it
        job.run_id, job.nll = record.run_id, record.metrics[TEST_NLL]
        job.status = "skipped" if (record.finished or "") < start else "finished"
        return record.metrics[VAL_NLL]
    except Exception as error:
        job.status, job.reason = "failed", explain(error)
        job.log = next((note.removeprefix("log: ") for note in getattr(error, "__notes__", [])), None)
        log.error("failed: %s", job.reason)
        return math.inf
    except BaseException:
        job.status = "interrupted"
        raise
    finally:
        job.write(folder)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Print what became of the jobs of a multirun started inside, also if it was cut short.

    Exits with code 1 if one of them is not finished.
    """
    try:
        yield
    finally:
        jobs = _read_jobs(Sweep.folder) if Sweep.folder else []
        if jobs:
            _print_jobs(jobs)
    if any(job.status not in ("finished", "skipped") for job in jobs):
        sys.exit(1)


def _read_jobs(folder: Path) -> list[Job]:
    jobs = [Job(**json.loads(path.read_text())) for path in folder.glob("job-*.json")]
    return sorted(jobs, key=lambda job: job.number)


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
            console.print(f"failed: {name(job)}: {job.reason}{log_file}", soft_wrap=True, markup=False, highlight=False)
    counts = Counter(job.status for job in jobs)
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts.keys() - {"finished", "skipped"}:
        console.print("the same command again runs what is not finished")
