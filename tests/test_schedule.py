"""Learning rates and evaluation points."""

import pytest

from iwae_lab.errors import UserError
from iwae_lab.schedule import LinearDecay, Paper


def drops(schedule: Paper, steps_a_pass: int) -> list[float]:
    """After how many passes the rate changes, looking at every step."""
    rates = [schedule.rate(step / steps_a_pass) for step in range(schedule.passes * steps_a_pass)]
    return [step / steps_a_pass for step in range(1, len(rates)) if rates[step] != rates[step - 1]]


@pytest.mark.parametrize("steps_a_pass", [1, 7])
def test_paper_drops_after_the_papers_passes_and_no_other(steps_a_pass: int) -> None:
    assert drops(Paper(), steps_a_pass) == [1, 4, 13, 40, 121, 364, 1093]


def test_paper_rates_are_the_papers() -> None:
    for i, start in enumerate([0, 1, 4, 13, 40, 121, 364, 1093]):
        assert Paper().rate(start) == pytest.approx(0.001 * 10 ** (-i / 7))


def test_paper_stretches_to_other_numbers_of_passes() -> None:
    assert drops(Paper(passes=6560), 1) == [2, 8, 26, 80, 242, 728, 2186]
    assert Paper(passes=328).rate(40) == Paper().rate(400)


def test_linear_decay_is_constant_then_falls_to_zero() -> None:
    schedule = LinearDecay(passes=100, batch_size=20, learning_rate=0.002, constant=0.4)
    assert schedule.rate(0) == schedule.rate(40) == 0.002
    assert schedule.rate(70) == pytest.approx(0.001)
    assert schedule.rate(100) == 0


def test_linear_decay_rises_for_its_warm_up_and_falls_in_time_all_the_same() -> None:
    schedule = LinearDecay(passes=100, batch_size=20, learning_rate=0.002, constant=0.4, warmup=10)
    assert [schedule.rate(done) for done in (0, 5, 10, 40)] == pytest.approx([0, 0.001, 0.002, 0.002])
    short = LinearDecay(passes=1, batch_size=20, learning_rate=0.002, constant=0.2, warmup=0.5)
    assert [short.rate(done) for done in (0.25, 0.6, 1)] == pytest.approx([0.001, 0.001, 0])


@pytest.mark.parametrize("passes", [1, 2, 20, 3280])
def test_evaluation_passes_begin_with_the_first_and_end_with_the_last(passes: int) -> None:
    points = Paper(passes=passes).evaluation_passes()
    assert points[0] == 1 and points[-1] == passes
    assert len(points) <= 31


@pytest.mark.parametrize("wrong", [{"passes": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_refuses(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"^{name}="):
        Paper(**wrong)  # type: ignore[arg-type]
