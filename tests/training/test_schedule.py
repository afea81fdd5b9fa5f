"""Learning rates and evaluation points."""

import pytest

from iwae_lab.console.errors import UserError
from iwae_lab.training.schedules import LinearDecay, Paper


def drops(schedule: Paper, steps_per_epoch: int) -> list[float]:
    """After how many epochs the rate changes, looking at every step."""
    rates = [schedule.rate(step / steps_per_epoch) for step in range(schedule.epochs * steps_per_epoch)]
    return [step / steps_per_epoch for step in range(1, len(rates)) if rates[step] != rates[step - 1]]


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_paper_drops_after_the_papers_epochs_and_no_other(steps_per_epoch: int) -> None:
    assert drops(Paper(), steps_per_epoch) == [1, 4, 13, 40, 121, 364, 1093]


def test_paper_rates_are_the_papers() -> None:
    for i, start in enumerate([0, 1, 4, 13, 40, 121, 364, 1093]):
        assert Paper().rate(start) == pytest.approx(0.001 * 10 ** (-i / 7))


def test_paper_stretches_to_other_numbers_of_epochs() -> None:
    assert drops(Paper(epochs=6560), 1) == [2, 8, 26, 80, 242, 728, 2186]
    assert Paper(epochs=328).rate(40) == Paper().rate(400)


def test_linear_decay_is_constant_then_falls_to_zero() -> None:
    schedule = LinearDecay(epochs=100, batch_size=20, learning_rate=0.002, constant=0.4)
    assert schedule.rate(0) == schedule.rate(40) == 0.002
    assert schedule.rate(70) == pytest.approx(0.001)
    assert schedule.rate(100) == 0


def test_linear_decay_rises_for_its_warm_up_and_falls_in_time_all_the_same() -> None:
    schedule = LinearDecay(epochs=100, batch_size=20, learning_rate=0.002, constant=0.4, warmup=10)
    assert [schedule.rate(done) for done in (0, 5, 10, 40)] == pytest.approx([0, 0.001, 0.002, 0.002])
    short = LinearDecay(epochs=1, batch_size=20, learning_rate=0.002, constant=0.2, warmup=0.5)
    assert [short.rate(done) for done in (0.25, 0.6, 1)] == pytest.approx([0.001, 0.001, 0])


@pytest.mark.parametrize("epochs", [1, 2, 20, 3280])
def test_evaluation_epochs_begin_with_the_first_and_end_with_the_last(epochs: int) -> None:
    points = Paper(epochs=epochs).evaluation_epochs()
    assert points[0] == 1 and points[-1] == epochs
    assert len(points) <= 31


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_refuses(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"^{name}="):
        Paper(**wrong)  # type: ignore[arg-type]
