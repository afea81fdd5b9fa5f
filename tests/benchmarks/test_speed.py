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
    (1, 5, 20): {"eager": 0.7, "compiled": 0.9},
    (1, 1, 20): {"eager": 0.6, "compiled": 1.0},
}
REACHED_IN_BF16 = {
    (1, 50, 100): {"compiled, bf16": 2.0, "`iwae_resampled`": 2.8},
    (1, 50, 20): {"compiled, bf16": 1.6, "`iwae_resampled`": 2.1},
    (2, 50, 100): {"compiled, bf16": 2.0, "`iwae_resampled`": 3.2},
    (1, 5, 20): {"compiled, bf16": 1.0},
    (1, 1, 20): {"compiled, bf16": 0.9},
}


def check(found: dict[str, Any], reached: dict[str, float]) -> None:
    medians = {name: statistics.median(found["ratios"][name]) for name in reached}
    assert all(medians[name] > MARGIN * ratio for name, ratio in reached.items()), (medians, reached)


@pytest.mark.parametrize("case", REACHED)
def test_training(case: tuple[int, int, int]) -> None:
    in_bf16 = REACHED_IN_BF16[case] if speed.HAS_BF16 else {}
    check(speed.training_case(*case, rounds=3), REACHED[case] | in_bf16)


@pytest.mark.parametrize("layers", [1, 2])
def test_evaluation(layers: int) -> None:
    in_bf16 = {"compiled, bf16": 2.2} if speed.HAS_BF16 else {}
    check(speed.evaluation_case(layers, rounds=3), {"eager": 0.9, "compiled": 1.5} | in_bf16)


def test_start_up_and_memory() -> None:
    for row in speed.start_up(3) + speed.memory():
        assert row["value"] < row["target"], row
