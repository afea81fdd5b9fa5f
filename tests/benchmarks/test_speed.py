"""The ratios that README's Performance section quotes hold, with a margin for noise."""

import statistics

import pytest
import speed

pytestmark = pytest.mark.benchmark
MARGIN = 0.8
REACHED = {(1, 50, 100): 1.2, (1, 50, 20): 1.2, (2, 50, 100): 1.2, (1, 5, 20): 1.0, (1, 1, 20): 0.7}


@pytest.mark.parametrize("case", REACHED)
def test_training(case: tuple[int, int, int]) -> None:
    found = speed.training_case(*case, rounds=3)
    best = max(statistics.median(ratios) for name, ratios in found["ratios"].items() if "resampled" not in name)
    assert best > MARGIN * REACHED[case], found


@pytest.mark.parametrize("layers", [1, 2])
def test_evaluation(layers: int) -> None:
    found = speed.evaluation_case(layers, rounds=3)
    assert statistics.median(found["ratios"]["compiled"]) > MARGIN * 1.5, found


def test_start_up_and_memory() -> None:
    for row in speed.start_up(3) + speed.memory():
        assert row["value"] < row["target"], row
