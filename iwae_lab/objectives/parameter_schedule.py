"""Parameters of an objective that change from epoch to epoch. Torch only."""

from dataclasses import dataclass

__all__ = ["ParameterSchedule"]


@dataclass(frozen=True)
class ParameterSchedule:
    """Moves linearly from `start` in the first epoch to `end` after `epochs` epochs, and stays there."""

    start: float
    end: float
    epochs: int

    def value(self, epochs_done: int) -> float:
        """The value in the epoch after `epochs_done` finished ones."""
        return self.start + (self.end - self.start) * min(1.0, epochs_done / self.epochs)
