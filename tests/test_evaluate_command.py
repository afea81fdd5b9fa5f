"""What of the evaluation lands in records, summaries and comparisons, by way of training runs and `evaluate`."""

import csv
import re

import pytest
from compare_helpers import make_run

from iwae_lab.evaluation.active_units import active_units, authors_counts
from iwae_lab.evaluation.diagnostics import diagnose
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.runs.record import read_record
from iwae_lab.runs.trained import TrainedRun

TWO_LAYERS = ["model=two_layer", "model.latents=[4,2]", "model.hidden=[[8],[8]]", "schedule.epochs=1"]


def rows(printed: str) -> dict[str, str]:
    """The lines of a printed table."""
    return dict(re.findall(r"│ (.*?) +│ (.*?) +│", printed))


def test_overfitting_and_other_counts_of_units_are_in_the_record_and_the_summary(cli, tiny, tmp_path):
    done = cli("train.py", *tiny, *TWO_LAYERS)
    assert done.returncode == 0, done.stderr
    shown = rows(done.stdout)
    (folder,) = (tmp_path / "runs").glob("mnist*")
    metrics = read_record(folder).metrics
    trained = TrainedRun.read(folder)
    model, data = trained.model, trained.data
    assert set(data.train_draw().unique().tolist()) == {0, 1}
    parts = {"train": data.train_draw(), "val": data.val, "test": data.test}
    measured = {name: likelihood(model, images[:30], 20) for name, images in parts.items()}
    for name, found in measured.items():
        assert metrics[f"test/overfitting/nll_{name}"] == pytest.approx(found.nll, rel=1e-6)
    gap = measured["test"].nll - measured["train"].nll
    assert metrics["test/overfitting/gap"] == pytest.approx(gap, abs=1e-3)
    assert (metrics["test/overfitting/k"], metrics["test/overfitting/images"]) == (20, 30)
    assert shown["test − train NLL"] == (
        f"{metrics['test/overfitting/gap']:.2f} ± {metrics['test/overfitting/gap_se']:.2f} nats (L_20, 30 images each)"
    )
    lowest, highest = zip(*active_units(model, data.test).intervals(), strict=True)
    assert (metrics["test/active_units_low"], metrics["test/active_units_high"]) == ([*lowest], [*highest])
    authors, by_kl = authors_counts(model, data.train_draw()), diagnose(model, data.test, 50).informative
    assert (metrics["test/active_units_authors"], metrics["test/units_by_kl"]) == (authors, by_kl)
    assert shown["counted otherwise"] == "{} + {} by KL, {} + {} as the paper's authors count".format(*by_kl, *authors)


def test_compare_shows_the_gap_between_training_and_test_images(cli, tmp_path):
    make_run(tmp_path / "runs", seed=0, train_gap=0.5)
    make_run(tmp_path / "runs", seed=1, train_gap=0.9)
    make_run(tmp_path / "runs", objective="vae", seed=0, train_gap=0.9)
    make_run(tmp_path / "runs", objective="vae", seed=1)  # an older record
    done = cli("-m", "iwae_lab.compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test−train +") == 1 and "test−train +0.70" in done.stdout
    assert "test−train +0.70" in (tmp_path / "out" / "comparison.md").read_text()
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        gaps = {line["objective"]: line["train_gap"] for line in csv.DictReader(file)}
    assert gaps["vae"] == "" and float(gaps["iwae"]) == pytest.approx(0.7)
