"""TensorBoard event files in the run's folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.keys import (
    TEST,
    TEST_LOG_UNIT_VARIANCES,
    TEST_NLL,
    TRAIN_BOUND,
    log10_variances,
    numbers,
    of_layer,
)
from iwae_lab.loggers.base import RunLogger
from iwae_lab.runs.record import Record

__all__ = ["TensorBoard"]


class TensorBoard(RunLogger):
    """Metrics and figures under tensorboard/ in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self, *, folder: Path, record: Record, group: str | None = None) -> None:
        super().__init__(folder=folder, record=record, group=group)
        self.path = folder / "tensorboard"
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise UserError('_target_=TensorBoard: expected `pip install "iwae-lab[tensorboard]"` first') from None

    def holds_result(self) -> bool:
        return bool(self._steps(TEST_NLL))

    def start(self, rows: list[dict[str, float]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.known_step = max(self._steps(TRAIN_BOUND), default=-1)
        self.writer = SummaryWriter(self.path)
        self.replay(rows)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        if step <= self.known_step:
            return  # a resumed run repeats the epochs after its checkpoint, with the same result
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def save(self) -> None:
        self.writer.flush()

    def log_figures(self, draw: Callable[[], dict[str, Image.Image]], step: int) -> None:
        if step > self.known_step:
            self._add_images(draw(), step)

    def log_result(self, record: Record, figures: dict[str, Image.Image]) -> None:
        for key, value in numbers(record.metrics).items():
            if key.startswith(TEST):  # others were logged while training
                self.writer.add_scalar(key, value, record.steps)
        self._add_images(figures, record.steps)
        for level, logs in enumerate(log10_variances(record.metrics), 1):
            self.writer.add_histogram(of_layer(TEST_LOG_UNIT_VARIANCES, level), np.array(logs), record.steps)

    def close(self, failed: bool) -> None:
        self.writer.close()

    def _add_images(self, figures: dict[str, Image.Image], step: int) -> None:
        for name, figure in figures.items():
            self.writer.add_image(f"figures/{name}", np.asarray(figure.convert("RGB")), step, dataformats="HWC")

    def _steps(self, key: str) -> list[int]:
        """The steps at which the event files hold the scalar `key`."""
        if not self.path.is_dir():
            return []
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        held = EventAccumulator(str(self.path), size_guidance={"scalars": 0}).Reload()
        return [event.step for event in held.Scalars(key)] if key in held.Tags()["scalars"] else []
