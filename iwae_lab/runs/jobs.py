"""The status of each job of a multirun, one file per job."""

import dataclasses
import json
import logging
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.explain import explain

__all__ = ["Job", "read_jobs", "record_death"]

log = logging.getLogger(__name__)


@dataclass
class Job:
    """The status of one job of a multirun, kept in the sweep's folder under every launcher."""

    number: int
    overrides: list[str]
    status: str = "running"
    """running, finished, skipped (was finished before), failed, interrupted or killed (it wrote no reason itself)"""
    run_id: str | None = None
    nll: float | None = None
    reason: str | None = None
    log: str | None = None
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def write(self, folder: Path) -> None:
        """Write job-<number>.json, whole or not at all; warns if it can't be written."""
        try:
            write_atomically(folder / f"job-{self.number}.json", json.dumps(dataclasses.asdict(self)))
        except OSError as error:
            log.warning("%s; the table at the end will not be right", explain(error))


def read_jobs(folder: Path) -> list[Job]:
    """The jobs that have started, in order."""
    jobs = [Job(**json.loads(path.read_text("utf-8"))) for path in folder.glob("job-*.json")]
    return sorted(jobs, key=lambda job: job.number)


def record_death(folder: Path, number: int, overrides: Sequence[str], reason: str) -> JobReturn:
    """Record a job as killed for this reason, unless the job recorded its end itself.

    Returns what the job returns when it fails.
    """
    started = {job.number: job for job in read_jobs(folder)}
    job = started.get(number) or Job(number, list(filter_overrides(overrides)))
    if job.status == "running":
        job.status, job.reason = "killed", reason
        job.write(folder)
    return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=math.inf)
