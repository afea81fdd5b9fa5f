"""The metrics.csv of a run folder."""

import csv
import io
from typing import Any

from iwae_lab.console.atomic import write_atomically
from iwae_lab.loggers.base import RunLogger

__all__ = ["MetricsCSV"]


class MetricsCSV(RunLogger):
    """metrics.csv: one row per logged step, one column per metric; a resumed run continues the same file.

    Lightning's own CSVLogger deletes the file of the run that it should resume.
    """

    def start(self, rows: list[dict[str, float]]) -> None:
        self.rows: dict[int, dict[str, Any]] = {int(row["step"]): row | {"step": int(row["step"])} for row in rows}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.setdefault(step, {}).update(metrics, step=step)

    def save(self) -> None:
        columns = list(dict.fromkeys(["step", *(key for row in self.rows.values() for key in row)]))
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(self.rows[step] for step in sorted(self.rows))
        write_atomically(self.folder / "metrics.csv", file.getvalue())
