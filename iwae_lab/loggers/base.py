"""What a tracker receives: the run's identity, metrics and figures during training, the result, the end."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.loggers import Logger

from iwae_lab.console.errors import UserError
from iwae_lab.runs.record import Record, read_metrics

__all__ = ["RunLogger", "log_finished"]


class RunLogger(Logger):
    """Tracks one run. Called in this order: `start`, `log_figures` and `log_metrics`, `log_result`, `close`.

    Building a tracker has no effect, so that it can be asked for `holds_result`.

    folder: the run's. record: the run's record before training, its protocol included. group: the
    name of the multirun that the run belongs to, None for a single run.
    """

    known_step: int

    def __init__(self, *, folder: Path, record: Record, group: str | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.record = record
        self.group = group

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return self.record.run_id

    def holds_result(self) -> bool:
        """Whether the tracker already has the result of this run, from an earlier command."""
        return True

    def start(self, rows: list[dict[str, float]]) -> None:
        """Begin the run, or resume it after `rows`, the metrics of its earlier epochs, each with its step."""

    def replay(self, rows: list[dict[str, float]]) -> None:
        """Log the `rows` beyond `known_step`, the last step that the tracker holds."""
        for row in rows:
            self.log_metrics({key: value for key, value in row.items() if key != "step"}, int(row["step"]))
        self.known_step = max([self.known_step, *(int(row["step"]) for row in rows)])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The record holds them."""

    @abstractmethod
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log the metrics of one step."""

    def log_figures(self, draw: Callable[[], dict[str, Image.Image]], step: int) -> None:
        """Log the figures that `draw` returns by name; called before `log_metrics` of the same step."""

    def log_result(self, record: Record, figures: dict[str, Image.Image]) -> None:
        """Log the metrics of the finished record, and figures by name."""

    def close(self, failed: bool) -> None:
        """End the run."""


def log_finished(trackers: Iterable[RunLogger]) -> None:
    """Give the trackers of a finished run what they lack, from its record, metrics.csv and figures."""
    for tracker in trackers:
        if tracker.holds_result():
            continue
        figures = {path.stem: _picture(path) for path in sorted((tracker.folder / "figures").glob("*.png"))}
        tracker.start(read_metrics(tracker.folder))
        failed = True
        try:
            tracker.log_result(tracker.record, figures)
            failed = False
        finally:
            tracker.close(failed)


def _picture(path: Path) -> Image.Image:
    try:
        return Image.open(path).convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: expected a picture ({error})") from None
