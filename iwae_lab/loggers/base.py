"""What a tracker is given: metrics and figures while training, then the result and its figures, then the end."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pytorch_lightning.loggers import Logger

from iwae_lab.record import Record

__all__ = ["RunLogger"]


class RunLogger(Logger):
    """Takes the metrics of one run, and what is measured after its training.

    folder: of the run. record: known up to the protocol when training starts, with all metrics at `log_result`.
    """

    def __init__(self, folder: Path, record: Record) -> None:
        super().__init__()
        self.folder = folder
        self.record = record

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return self.record.run_id

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The record holds them."""

    @abstractmethod
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Take the metrics of a step."""

    def log_figures(self, draw: Callable[[], dict[str, Image]], step: int) -> None:
        """Take the figures that `draw` gives by name; called before the metrics of their step."""

    def log_result(self) -> None:
        """Take the metrics of the record and the figures in the run's folder."""

    def close(self, failed: bool) -> None:
        """The run is over."""
