"""Differences of runs that were measured on the same images."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.records import make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from iwae_lab.compare.__main__ import main
from iwae_lab.compare.runs import find_runs
from iwae_lab.compare.tables import Cell, make_tables


def make_measured_run(runs: Path, bounds: np.ndarray, name: str = "bound_5000", **keys: object) -> Path:
    """A run whose record and per_image.npz say the same."""
    se = float(bounds.std(ddof=1)) / math.sqrt(len(bounds))
    folder = make_run(runs, nll=-float(bounds.mean()), nll_se=se, **keys)
    np.savez(folder / "per_image.npz", **{name: bounds, "elbo": bounds - 1})
    return folder


def cells(runs: Path) -> dict[str, Cell]:
    [table] = make_tables(find_runs([runs]).runs, "k")
    return {row.objective: cell for row in table.rows for cell in row.cells.values()}


@pytest.fixture
def images() -> np.ndarray:
    """Bounds of 400 images, which differ far more than two good models do."""
    return np.random.default_rng(0).normal(-85, 20, 400)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(0.05, 5.0), spread=st.floats(0.01, 3.0), seed=st.integers(0, 99))
def test_the_error_of_a_difference_is_that_of_the_images_differences(tmp_path_factory, shift, spread, seed):
    runs = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(seed)
    better = rng.normal(-85, 20, 50)
    differences = rng.normal(shift, spread, 50)
    make_measured_run(runs, better, objective="iwae")
    make_measured_run(runs, better - differences, objective="dreg")
    found = cells(runs)
    mean, error = differences.mean(), math.sqrt(sum((differences - differences.mean()) ** 2) / 49 / 50)
    first, second = ("iwae", "dreg") if mean > 0 else ("dreg", "iwae")
    assert found[first].minus_lowest is None
    assert found[second].minus_lowest == pytest.approx((abs(mean), error))
    assert found[first].best == (abs(mean) > error)


def test_a_difference_that_the_images_share_is_bold_and_told_everywhere(tmp_path, images, monkeypatch, capfd):
    make_measured_run(tmp_path / "runs", images, objective="iwae")
    noise = np.random.default_rng(1).normal(0, 0.2, 400)
    make_measured_run(tmp_path / "runs", images - 0.3 + noise - noise.mean(), objective="dreg")
    found = cells(tmp_path / "runs")
    assert found["iwae"].best and found["iwae"].se > 0.9  # unpaired, 0.3 nats would be far inside the error
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    main()
    said = "lowest +0.30 ± 0.01 paired"
    assert said in capfd.readouterr().out
    assert said in (tmp_path / "out" / "comparison.md").read_text()
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = {row["objective"]: row for row in csv.DictReader(file)}
    assert float(rows["dreg"]["minus_lowest"]) == pytest.approx(0.3)
    assert rows["iwae"]["minus_lowest"] == rows["iwae"]["minus_lowest_se"] == ""


def spoil_nothing(folder: Path) -> None:
    pass


def without_file(folder: Path) -> None:
    (folder / "per_image.npz").unlink()


def truncated(folder: Path) -> None:
    path = folder / "per_image.npz"
    path.write_bytes(path.read_bytes()[:500])


def not_numbers(folder: Path) -> None:
    np.savez(folder / "per_image.npz", bound_5000=np.array([{}], dtype=object))


def of_other_images(folder: Path) -> None:
    np.savez(folder / "per_image.npz", bound_5000=np.full(399, -85.5))


def of_another_result(folder: Path) -> None:
    np.savez(folder / "per_image.npz", bound_5000=np.full(400, -50.0))


def of_another_k(folder: Path) -> None:
    np.savez(folder / "per_image.npz", bound_500=np.full(400, -85.5))


@pytest.mark.parametrize(
    "spoil", [without_file, truncated, not_numbers, of_other_images, of_another_result, of_another_k, spoil_nothing]
)
def test_without_values_that_can_be_trusted_there_is_no_paired_error(tmp_path, images, spoil):
    make_measured_run(tmp_path, images, objective="iwae")
    spoil(make_measured_run(tmp_path, images - images.mean() - 85.5, objective="dreg"))
    worse = max(cells(tmp_path).values(), key=lambda cell: cell.nll)
    assert (worse.minus_lowest is not None) == (spoil is spoil_nothing)


def test_repetitions_keep_the_error_over_seeds(tmp_path, images):
    for seed in range(2):
        make_measured_run(tmp_path, images - 0.01 * seed, objective="iwae", seed=seed)
        make_measured_run(tmp_path, images - 1 - 0.01 * seed, objective="dreg", seed=seed)
    assert all(cell.minus_lowest is None for cell in cells(tmp_path).values())
