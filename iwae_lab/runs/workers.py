"""Worker processes for joblib that survive each other.

loky's executor, like Python's own, ends all of its workers when one is killed. Here each worker has its own executor,
which is replaced when it breaks.
"""

import functools
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from joblib import register_parallel_backend
from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor
from joblib.parallel import ThreadingBackend

from iwae_lab.console.errors import require
from iwae_lab.runs.gpus import WORKER
from iwae_lab.runs.jobs import record_death

__all__ = ["use_workers_that_survive"]


def use_workers_that_survive(folder: Path, stopping: threading.Event) -> None:
    """Make hydra/launcher=joblib run its jobs in `Workers`.

    folder: the sweep's. stopping: when set, no more jobs are started.
    """
    register_parallel_backend("loky", functools.partial(Workers, folder, stopping))  # the launcher asks for it


class Workers(ThreadingBackend):
    """A joblib backend whose threads run each job in a process, and record the job if its process dies."""

    def __init__(self, folder: Path, stopping: threading.Event, **settings: Any) -> None:
        super().__init__(**settings)
        self.folder, self.stopping = folder, stopping

    def configure(self, n_jobs: int = 1, parallel: Any = None, **settings: Any) -> int:
        """Make the executors, which start their processes with the first job."""
        require("hydra.launcher.n_jobs", n_jobs, n_jobs != 0, "a number of jobs, or -1 for as many as there are cores")
        size = parallel.batch_size
        require("hydra.launcher.batch_size", size, size in ("auto", 1), "auto or 1, as each job is recorded on its own")
        self.parallel = parallel
        self._n_jobs: int = self.effective_n_jobs(n_jobs)
        self.idle: queue.SimpleQueue[tuple[int, ProcessPoolExecutor]] = queue.SimpleQueue()
        self.executors = [self._executor(index) for index in range(self._n_jobs)]
        for worker in enumerate(self.executors):
            self.idle.put(worker)
        return self._n_jobs

    def _executor(self, index: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, env={WORKER: str(index)})  # not joblib's share of the cores: jobs take theirs

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
        """Run one job, which the launcher passes as a joblib batch of a single call, in an idle worker."""
        return super().submit(functools.partial(self._run, func), callback)

    def _run(self, batch: Any) -> list[JobReturn]:
        ((_, (number, overrides, *_), _),) = batch.items
        index, executor = self.idle.get()
        try:
            if self.stopping.is_set():
                raise KeyboardInterrupt
            return executor.submit(batch).result()
        except BrokenProcessPool as death:
            executor.shutdown()
            self.executors[index] = executor = self._executor(index)
            codes = re.search(r"exit codes.*\{(.*)\}", str(death))
            reason = f"its process ended with {codes[1]}" if codes else str(death)
            return [record_death(self.folder, number, overrides, reason)]
        except SystemExit:  # of the job alone, which has recorded its interruption
            return [record_death(self.folder, number, overrides, "interrupted")]
        finally:
            self.idle.put((index, executor))

    def terminate(self) -> None:
        """End the workers; kill them if the multirun is stopping."""
        for executor in self.executors:
            executor.shutdown(kill_workers=self.stopping.is_set())
        super().terminate()
