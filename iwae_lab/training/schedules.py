"""Schedules: the number of epochs, the batch size and the learning rates."""

from abc import ABC, abstractmethod
from typing import ClassVar

from iwae_lab.console.errors import require

__all__ = ["Authors", "Constant", "LinearDecay", "Paper", "Schedule"]


class Schedule(ABC):
    """How long to train and at which learning rates; but for a warmup, their curve is rescaled to the number of epochs.

    epochs: passes over the training data. batch_size: images per step. learning_rate: the highest rate. Constructors
    raise `UserError` for parameters out of range.
    """

    shuffle: ClassVar[bool] = True
    """whether each epoch takes the images in a new random order"""

    def __init__(self, epochs: int, batch_size: int, learning_rate: float) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            require(name, value, value >= 1, "an integer of at least 1")
        require("learning_rate", learning_rate, 0 < learning_rate < float("inf"), "a number above 0")
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate

    def rate(self, epochs_done: float) -> float:
        """The learning rate after `epochs_done` epochs, which may be a fraction."""
        return self.learning_rate * self.factor(epochs_done / self.epochs)

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The learning rate at `progress` in [0, 1], as a fraction of the highest."""

    def evaluation_epochs(self) -> list[int]:
        """The epochs after which the validation set is measured: 1, 2, 4, 8, … and each tenth of the total."""
        doubling = {2**i for i in range(self.epochs.bit_length())}
        tenths = {round(self.epochs * i / 10) for i in range(1, 11)}
        return sorted((doubling | tenths) - {0})


class Paper(Schedule):
    """3^i epochs at learning_rate·10^(−i/7), i = 0…7: 3,280 epochs (Burda et al. 2016, section 5).

    The rate drops after epochs 1, 4, 13, 40, 121, 364 and 1093.
    """

    STAGES = 8

    def __init__(self, epochs: int = 3280, batch_size: int = 20, learning_rate: float = 0.001) -> None:
        super().__init__(epochs, batch_size, learning_rate)

    def factor(self, progress: float) -> float:
        total = (3**self.STAGES - 1) // 2
        position = progress * total + 1e-9  # a drop falls on its epoch despite rounding
        stage = sum(position >= (3**i - 1) // 2 for i in range(1, self.STAGES))
        return 10 ** (-stage / 7)


class Authors(Paper):
    """`Paper` as in its authors' code: rates rounded to 10, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4 and 1 tenths of
    `learning_rate`, and every epoch takes the images in the dataset's own order.

    From experiments.py and train.py of https://github.com/yburda/iwae.
    """

    shuffle = False

    def factor(self, progress: float) -> float:
        return round(10 * super().factor(progress), 1) / 10


class LinearDecay(Schedule):
    """A linear warm-up over `warmup` epochs, then a constant rate, then a linear decay to zero.

    The decay starts after the fraction `constant` of all epochs, even if the warm-up is not over.
    """

    def __init__(
        self, epochs: int, batch_size: int, learning_rate: float, constant: float = 0.3, warmup: float = 0.0
    ) -> None:
        super().__init__(epochs, batch_size, learning_rate)
        require("constant", constant, 0 <= constant < 1, "a number from 0 to below 1")
        require("warmup", warmup, 0 <= warmup <= epochs, f"a number of epochs from 0 to {epochs}")
        self.constant = constant
        self.warmup = warmup

    def factor(self, progress: float) -> float:
        epochs_done = progress * self.epochs
        rising = min(1.0, epochs_done / self.warmup) if self.warmup else 1.0
        return min(rising, (1 - progress) / (1 - self.constant))


class Constant(Schedule):
    """The same rate in every epoch."""

    def factor(self, progress: float) -> float:
        return 1.0
