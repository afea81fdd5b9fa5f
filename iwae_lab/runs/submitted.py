"""Jobs of submitit: one that ends without a result is recorded, and the others are still waited for."""

from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError

from iwae_lab.runs.jobs import record_death

__all__ = ["wait_for_all"]


def wait_for_all(folder: Path) -> None:
    """Let Hydra's submitit launchers wait for every job, instead of ending at the first one without a result.

    folder: the sweep's.
    """
    results = submitit.Job.results

    def results_or_death(job: submitit.Job[Any]) -> list[Any]:
        try:
            return results(job)
        except UncompletedJobError:
            overrides, _, number, *_ = job.submission().args
            reason = f"no result from job {job.job_id} of submitit ({job.state}; {job.paths.stderr})"
            return [record_death(folder, number, overrides, reason)]

    submitit.Job.results = results_or_death  # type: ignore[method-assign, assignment]
