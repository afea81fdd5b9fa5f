"""The ratios that README's Speed section quotes hold, with a margin for noise."""

import statistics
from typing import Any

import pytest
import speed

pytestmark = pytest.mark.benchmark
MARGIN = 0.8
REACHED = {
    (1, 50, 100): {"eager": 0.95, "compiled": 1.2, "`iwae_resampled`": 1.9},
    (1, 50, 20): {"eager": 0.95, "compiled": 1.2, "`iwae_resampled`": 1.6},
    (2, 50, 100): {"eager": 0.95, "compiled": 1.2, "`iwae_resampled`": 1.9},
    (1, 5, 20): {"eager": 1.0, "compiled": 1.1},
    (1, 1, 20): {"eager": 0.8, "compiled": 1.0},
}


def check(found: dict[str, Any], reached: dict[str, float]) -> None:
    medians = {name: statistics.median(found["ratios"][name]) for name in reached}
    assert all(medians[name] > MARGIN * ratio for name, ratio in reached.items()), (medians, reached)


@pytest.mark.parametrize("case", REACHED)
def test_training(case: tuple[int, int, int]) -> None:
    check(speed.training_case(*case, rounds=3), REACHED[case])


@pytest.mark.parametrize("layers", [1, 2])
def test_evaluation(layers: int) -> None:
    check(speed.evaluation_case(layers, rounds=3), {"eager": 1.0, "compiled": 1.5})


def test_start_up_and_memory() -> None:
    for row in speed.start_up(3) + speed.memory():
        assert row["value"] < row["target"], row
