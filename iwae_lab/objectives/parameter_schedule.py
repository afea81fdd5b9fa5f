"""Parameters of an objective that change from epoch to epoch. Torch only."""

from dataclasses import dataclass
from typing import Any

from iwae_lab.console.errors import require

__all__ = ["ParameterSchedule", "parameter_schedules"]


@dataclass(frozen=True)
class ParameterSchedule:
    """Moves linearly from `start` in the first epoch to `end` after `epochs` epochs, and stays there."""

    start: float
    end: float
    epochs: int

    def value(self, epochs_done: int) -> float:
        """The value in the epoch after `epochs_done` finished ones."""
        return self.start + (self.end - self.start) * min(1.0, epochs_done / self.epochs)


def parameter_schedules(node: Any) -> dict[str, ParameterSchedule]:
    """Every value {from: A, to: B, epochs: N} of an objective's node, by its key. Raises `UserError` where one is
    incomplete."""
    schedules = {}
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict) and "from" in value:
            numbers = set(value) == {"from", "to", "epochs"} and all(type(n) in (int, float) for n in value.values())
            valid = numbers and value["epochs"] >= 1 and value["epochs"] % 1 == 0
            require(f"objective.{name}", value, valid, "{from: A, to: B, epochs: N} with an integer N of at least 1")
            schedules[name] = ParameterSchedule(float(value["from"]), float(value["to"]), int(value["epochs"]))
    return schedules
