"""TensorBoard event files in the run's folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from iwae_lab.errors import UserError
from iwae_lab.loggers.base import RunLogger
from iwae_lab.record import Record

__all__ = ["TensorBoard"]


class TensorBoard(RunLogger):
    """Metrics and figures under tensorboard/ in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self, *, folder: Path, record: Record) -> None:
        super().__init__(folder, record)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError('_target_=TensorBoard: expected `pip install "iwae-lab[tensorboard]"` first') from None
        self.writer = SummaryWriter(folder / "tensorboard")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def save(self) -> None:
        self.writer.flush()

    def log_figures(self, draw: Callable[[], dict[str, Image.Image]], step: int) -> None:
        for name, figure in draw().items():
            self.writer.add_image(f"figures/{name}", np.asarray(figure.convert("RGB")), step, dataformats="HWC")

    def log_result(self) -> None:
        for key, value in self.record.metrics.items():
            if not isinstance(value, list):
                self.writer.add_scalar(key, value, self.record.steps)
        for picture in sorted((self.folder / "figures").glob("*.png")):
            pixels = np.asarray(Image.open(picture).convert("RGB"))
            self.writer.add_image(f"figures/{picture.stem}", pixels, self.record.steps, dataformats="HWC")
        for level, variances in enumerate(self.record.metrics["test/unit_variances"], 1):
            logs = np.log10(np.maximum(variances, 1e-6))
            self.writer.add_histogram(f"test/log10_unit_variances/{level}", logs, self.record.steps)

    def close(self, failed: bool) -> None:
        self.writer.close()
