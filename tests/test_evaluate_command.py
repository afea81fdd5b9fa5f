"""What of the evaluation lands in records, summaries and comparisons, by way of training runs and `evaluate`."""

import csv
import json
import re

import numpy as np
import pytest
from compare_helpers import make_run

from iwae_lab.evaluation.active_units import active_units, authors_counts
from iwae_lab.evaluation.ais import Annealing, ais, bidirectional
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


AIS = [
    "evaluation.ais.images=5", "evaluation.ais.chains=4", "evaluation.ais.temperatures=20",
    "evaluation.ais.leapfrog_steps=2", "evaluation.ais.start=prior", "evaluation.ais.schedule=linear",
]  # fmt: skip


def test_ais_lands_in_the_record_the_summary_and_per_image_and_changes_no_other_number(cli, tiny, tmp_path):
    arguments = ["train.py", *tiny, "schedule.epochs=1"]
    done = cli(*arguments, *AIS)
    assert done.returncode == 0, done.stderr
    assert "annealing 5 images: about" in done.stderr
    (folder,) = (tmp_path / "runs").glob("mnist*")
    metrics, shown = read_record(folder).metrics, rows(done.stdout)
    trained = TrainedRun.read(folder)
    how = Annealing(4, 20, 2, "prior", "linear")
    annealed, gap = ais(trained.model, trained.data.test[:5], how), bidirectional(trained.model, 5, how).gap
    with np.load(folder / "per_image.npz") as per_image:
        assert per_image["ais_bound"] == pytest.approx(annealed.bound.numpy())
        assert per_image["ais_gap"] == pytest.approx(gap.numpy())
        gain = per_image["ais_bound"] - per_image["bound_20"][:5]
    assert metrics["test/ais/nll"] == pytest.approx(-annealed.mean)
    assert metrics["test/ais/nll"] + gain.mean() == pytest.approx(metrics["test/ais/sampling_nll"])
    assert metrics["test/ais/gain"] == pytest.approx(gain.mean())
    assert metrics["test/ais/gain_se"] == pytest.approx(gain.std(ddof=1) / 5**0.5)
    assert metrics["test/ais/gap"] == pytest.approx(gap.mean().item())
    assert 1 <= metrics["test/ais/ess"] <= 4 and 0 < metrics["test/ais/acceptance"] <= 1
    assert shown["AIS NLL of 5 test images"].startswith(f"{metrics['test/ais/nll']:.2f} ± ")

    kept = (folder / "result.json").read_bytes()
    again = cli("-m", "iwae_lab.evaluate", str(folder), "evaluation.ais.images=0")
    assert again.returncode == 0 and again.stdout.rstrip().endswith(": equal"), again.stderr
    without = {key: value for key, value in metrics.items() if not key.startswith("test/ais/")}
    (folder / "result.json").write_text(json.dumps(json.loads(kept) | {"metrics": without}))
    told = cli(*arguments, *AIS)
    assert f"iwae_lab.evaluate {folder} evaluation.ais.images=5" in told.stderr, "the same run, finished without AIS"
    later = cli("-m", "iwae_lab.evaluate", str(folder), *AIS)
    assert later.returncode == 0, later.stderr
    for line, value in shown.items():
        if "AIS" in line:
            assert rows(later.stdout)[line] == value


@pytest.mark.parametrize(("overrides", "message"), [
    (["evaluation.ais.images=1"], "evaluation.ais.images=1: expected 0 or at least 2"),
    (["evaluation.ais.chain=3"], "evaluation.ais.chain: no such key (did you mean evaluation.ais.chains?)"),
    (["evaluation.ais.start=p"], "evaluation.ais.start=p: expected one of q, prior"),
    (["evaluation.ais.images=5", "model=sigmoid_belief", "objective=vimco"],
     "evaluation.ais.images=5: SigmoidBeliefNetwork has discrete latents"),
])  # fmt: skip
def test_ais_keys_that_make_no_sense_are_refused_before_training(overrides, message, cli, tiny, tmp_path):
    done = cli("train.py", *tiny, *overrides)
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "runs").glob("*/checkpoints/*"))
