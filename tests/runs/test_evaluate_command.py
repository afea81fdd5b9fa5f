"""What of the evaluation lands in records, summaries and comparisons, by way of training runs and `evaluate`."""

import csv
import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import torch
import yaml
from helpers.datasets import images
from helpers.records import make_run

from iwae_lab.console.errors import UserError
from iwae_lab.evaluate import measured_again
from iwae_lab.evaluation.active_units import active_units, authors_counts
from iwae_lab.evaluation.ais import Annealing, ais, bidirectional
from iwae_lab.evaluation.diagnostics import diagnose
from iwae_lab.evaluation.gaps import encoder_gaps
from iwae_lab.evaluation.images import pick
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork
from iwae_lab.runs import measure as measuring
from iwae_lab.runs.experiment import resolve
from iwae_lab.runs.external import measure_external
from iwae_lab.runs.record import read_record
from iwae_lab.runs.run import run
from iwae_lab.runs.trained import TrainedRun
from iwae_lab.runs.weights import load_mapped

OTHER = "iwae_lab.models.hierarchical.HierarchicalModel"
TWO_LAYERS = ["model=two_layer", "model.latents=[4,2]", "model.hidden=[[8],[8]]", "schedule.epochs=1"]


def rows(printed: str) -> dict[str, str]:
    """The lines of a printed table."""
    return dict(re.findall(r"│ (.*?) +│ (.*?) +│", printed))


def test_overfitting_and_other_counts_of_units_are_in_the_record_and_the_summary(cli, tiny, tmp_path):
    done = cli("train.py", *tiny, *TWO_LAYERS)
    assert done.returncode == 0, done.stderr
    shown = rows(done.stdout)
    (folder,) = (tmp_path / "runs").glob("npz*")
    metrics = read_record(folder).metrics
    trained = TrainedRun.read(folder)
    model, data = trained.model, trained.data
    assert set(data.train_draw().unique().tolist()) == {0, 1}
    parts = {"train": data.train_draw(), "val": data.val, "test": data.test}
    parts["train"] = parts["train"][pick(len(data.test), len(parts["train"]))]
    measured = {name: likelihood(model, images, 20) for name, images in parts.items()}
    for name, found in measured.items():
        assert metrics[f"test/overfitting/nll_{name}"] == pytest.approx(found.nll, rel=1e-6)
    gap = measured["test"].nll - measured["train"].nll
    assert metrics["test/overfitting/gap"] == pytest.approx(gap, abs=1e-3)
    assert (metrics["test/overfitting/k"], metrics["test/overfitting/images"]) == (20, 30)
    gap, se = metrics["test/overfitting/gap"], metrics["test/overfitting/gap_se"]
    assert shown["test − train NLL"] == f"{gap:.2f} ± {se:.2f} nats (L_20, 30 training images)"
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
    assert done.stdout.count("test−train +") == 1 and "test−train +0.70 ± 0.30" in done.stdout
    assert "test−train +0.70 ± 0.30" in (tmp_path / "out" / "comparison.md").read_text()
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        gaps = {line["objective"]: (line["train_gap"], line["train_gap_se"]) for line in csv.DictReader(file)}
    assert gaps["vae"] == ("", "") and [*map(float, gaps["iwae"])] == pytest.approx([0.7, 0.3])


AIS = [
    "evaluation.ais.images=5", "evaluation.ais.chains=4", "evaluation.ais.temperatures=20",
    "evaluation.ais.leapfrog_steps=2", "evaluation.ais.start=prior", "evaluation.ais.schedule=linear",
]  # fmt: skip


def test_ais_lands_in_the_record_the_summary_and_per_image_and_changes_no_other_number(cli, tiny, tmp_path):
    arguments = ["train.py", *tiny, "schedule.epochs=1"]
    done = cli(*arguments, *AIS)
    assert done.returncode == 0, done.stderr
    assert re.search(r"annealing 5 images: about \d:\d\d:\d\d", done.stderr)
    (folder,) = (tmp_path / "runs").glob("npz*")
    metrics, shown = read_record(folder).metrics, rows(done.stdout)
    trained = TrainedRun.read(folder)
    how = Annealing(4, 20, 2, "prior", "linear")
    picked = pick(5, len(trained.data.test))
    annealed, gap = ais(trained.model, trained.data.test[picked], how), bidirectional(trained.model, 5, how).gap
    with np.load(folder / "per_image.npz") as per_image:
        assert per_image["ais_bound"] == pytest.approx(annealed.bound.numpy())
        assert per_image["ais_gap"] == pytest.approx(gap.numpy())
        assert per_image["picked"].tolist() == picked.tolist()
        gain = per_image["ais_bound"] - per_image["bound_20"][picked]
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
    assert f"iwae_lab.evaluate {folder} {' '.join(sorted(AIS))}" in told.stderr, "the same run, finished without AIS"
    later = cli("-m", "iwae_lab.evaluate", str(folder), *AIS)
    assert later.returncode == 0, later.stderr
    for line, value in shown.items():
        if "AIS" in line:
            assert rows(later.stdout)[line] == value


def test_the_encoders_gaps_land_in_the_record_the_summary_and_per_image_and_change_no_other_number(
    composed, tiny, tmp_path, monkeypatch, capfd
):
    few_steps = functools.partial(encoder_gaps, steps=20)
    monkeypatch.setattr(measuring, "encoder_gaps", few_steps)
    cfg = composed(*tiny, "schedule.epochs=1", "evaluation.gaps.images=5")
    metrics = run(cfg).metrics
    shown = rows(capfd.readouterr().out)
    (folder,) = (tmp_path / "runs").glob("npz*")
    trained = TrainedRun.read(folder)
    model, x, picked = trained.model, trained.data.test, pick(5, len(trained.data.test))
    with np.load(folder / "per_image.npz") as per_image:
        found = few_steps(model, x[picked], torch.tensor(per_image["bound_20"][picked]))
        for name, gap in (("approximation", found.approximation), ("amortization", found.amortization)):
            assert per_image[f"{name}_gap"] == pytest.approx(gap.numpy())
            assert metrics[f"test/gaps/{name}"] == pytest.approx(gap.mean().item())
            assert metrics[f"test/gaps/{name}_se"] == pytest.approx(gap.std().item() / 5**0.5)
    assert (metrics["test/gaps/images"], metrics["test/gaps/k"]) == (5, 20)
    said = [f"{metrics[f'test/gaps/{name}']:.2f} ± " for name in ("approximation", "amortization")]
    assert shown["approximation gap of 5 images"].startswith(said[0])
    assert shown["approximation gap of 5 images"].endswith(" nats (log p(x) by L_20)")
    assert shown["amortization gap"].startswith(said[1])

    def again(*overrides):
        return measured_again(TrainedRun.read(folder, overrides), folder).metrics

    by_ais, beyond_ais = (again(*AIS, f"evaluation.gaps.images={n}") for n in (3, 6))
    log_p = ais(model, x[picked], Annealing(4, 20, 2, "prior", "linear")).bound[:3]
    best = few_steps(model, x[picked[:3]], log_p).best_elbo
    assert (by_ais["test/gaps/images"], by_ais["test/gaps/k"]) == (3, 0)
    assert by_ais["test/gaps/approximation"] == pytest.approx((log_p - best).mean().item())
    assert (beyond_ais["test/gaps/images"], beyond_ais["test/gaps/k"]) == (6, 20)

    record = read_record(folder)
    without = {key: value for key, value in metrics.items() if not key.startswith("test/gaps/")}
    dataclasses.replace(record, metrics=without).write(folder)
    assert again("evaluation.gaps.images=0") == without
    fewer = again("evaluation.gaps.images=0", "evaluation.k=5", "evaluation.images=10")
    assert "test/nll_5" not in fewer, "of the record, on other images"
    told: list[str] = []
    monkeypatch.setattr("iwae_lab.runs.run.log.info", lambda text, *values: told.append(text % values))
    run(cfg)
    assert f"not measured: python -m iwae_lab.evaluate {folder} evaluation.gaps.images=5" in told
    assert "approximation gap" not in capfd.readouterr().out


@pytest.mark.parametrize(("overrides", "message"), [
    (["evaluation.ais.images=1"], "evaluation.ais.images=1: expected 0 or at least 2"),
    (["evaluation.ais.chain=3"], "evaluation.ais.chain: no such key (did you mean chains?)"),
    (["evaluation.ais.start=p"], "evaluation.ais.start=p: expected one of q, prior"),
    (["evaluation.ais.images=5", "model=sigmoid_belief", "objective=vimco"],
     "evaluation.ais.images=5: SigmoidBeliefNetwork has discrete latents"),
    (["evaluation.gaps.images=5", "model=sigmoid_belief", "objective=vimco"],
     "evaluation.gaps.images=5: SigmoidBeliefNetwork has discrete latents"),
    ([f"init_from={{model: {{name: other, _target_: {OTHER}, latents: [5], hidden: [[8]]}}}}"],
     "init_from: expected weights of model=one_layer and its keys, found those of model=other, which don't fit"),
])  # fmt: skip
def test_what_can_not_be_measured_is_refused_before_training(overrides, message, cli, tiny, tmp_path):
    done = cli("train.py", *tiny, *overrides)
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "runs").glob("*/checkpoints/*"))


def test_a_file_of_images_may_move_but_not_change(composed, tiny, tmp_path):
    path, moved = tmp_path / "mine.npz", tmp_path / "moved.npz"
    np.savez(path, train=images(50), test=images(30, seed=1))
    run(composed(*tiny, f"dataset.path={path}"))
    (folder,) = (tmp_path / "runs").glob("npz*")
    path.rename(moved)
    with pytest.raises(UserError, match=rf"^dataset.path={path}: expected a file"):
        TrainedRun.read(folder)
    again = TrainedRun.read(folder, [f"dataset.path={moved}"])
    assert likelihood(again.model, again.data.test, 20).nll == again.record.metrics["test/nll"]
    np.savez(moved, train=images(50), test=images(30, seed=2))
    with pytest.raises(UserError, match="dataset=npz: expected the images of the run"):
        TrainedRun.read(folder, [f"dataset.path={moved}"])


def theirs(seed: int = 0) -> tuple[HierarchicalModel, dict[str, torch.Tensor], dict[str, object]]:
    """A model, its tensors under other names, transposed and with variances, and the map that undoes that."""
    torch.manual_seed(seed)
    model = HierarchicalModel([4], [[8]], mean_image=torch.rand(28, 28))
    weights = [name.removesuffix(".weight") for name in model.state_dict() if name.endswith(".weight")]
    layers = {name: f"net/{name}" for name in weights}
    tensors = {
        f"net/{name}": (value.T if value.dim() == 2 else value).clone() for name, value in model.named_parameters()
    }
    for kind in ("weight", "bias"):
        tensors[f"net/encoder.0.heads.1.{kind}"] *= 2
    return model, tensors, {"layers": layers, "scale": "log_variance", "transposed": True}


@pytest.fixture
def external(cli, tiny, tmp_path):
    """external(tensors, map, *arguments) -> what evaluate did with them."""

    def evaluate(tensors, mapping, *arguments):
        torch.save(tensors, tmp_path / "theirs.pt")
        (tmp_path / "map.yaml").write_text(yaml.dump(mapping))
        files = "--weights", str(tmp_path / "theirs.pt"), "--map", str(tmp_path / "map.yaml")
        kept = ("threads", "dataset", "evaluation", "runs_dir")
        small = [override for override in tiny if override.startswith(kept)]
        shape = [override for override in tiny if override.startswith("model.")]
        arguments = arguments or ("--model", "one_layer", *shape)
        return cli("-m", "iwae_lab.evaluate", *files, "k=3", *arguments, *small)

    return evaluate


def test_other_peoples_weights_are_recorded_and_compared_with_a_run_of_ours(cli, external, tiny, composed, tmp_path):
    model, tensors, mapping = theirs()
    done = external(tensors, mapping)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").glob("npz*")
    record = read_record(folder)
    assert (record.objective, record.status, record.k) == ("external", "finished", 3)
    found = likelihood(model, resolve(composed(*tiny)).data.test, 20)
    assert record.metrics["test/nll"] == pytest.approx(found.nll, abs=1e-4)
    assert rows(done.stdout)["test NLL (L_20)"].startswith(f"{found.nll:.2f} ± ")
    with np.load(folder / "per_image.npz") as per_image:
        assert per_image["bound_20"] == pytest.approx(found.bound.numpy(), abs=1e-3)
    assert external(tensors, mapping).stdout == done.stdout, "recorded already"

    _, others, _ = theirs(1)
    shape = [override for override in tiny if override.startswith("model.")]
    assert external(others, mapping, "--model", "one_layer", *shape, "++k=7").returncode == 0
    ks = {read_record(folder).k for folder in (tmp_path / "runs").glob("npz*")}
    assert ks == {3, 7}
    assert cli("train.py", *tiny, "schedule.epochs=1", "precision=32").returncode == 0
    compared = cli("-m", "iwae_lab.compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    assert compared.returncode == 0, compared.stderr
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        lines = [(line["objective"], line["protocol"], line["setting"]) for line in csv.DictReader(file)]
    assert [objective for objective, _, _ in lines] == ["iwae", "external", "external"]
    assert {protocol for _, protocol, _ in lines} == {record.protocol}
    assert lines[0][2] == "" and lines[1][2] != lines[2][2]
    assert all(re.fullmatch(r"objective.weights=theirs \(\w{8}\)", setting) for _, _, setting in lines[1:])


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensors, mapping: tensors.pop("net/encoder.0.heads.0.bias"),
     "encoder.0.heads.0.bias: no tensor net/encoder.0.heads.0.bias in the file"),
    (lambda tensors, mapping: tensors.update(steps=torch.ones(1)), "tensors not in the map: steps"),
    (lambda tensors, mapping: mapping.update(transposed=False),
     "expected shape [8, 4], found [4, 8] (transposed?)"),
])  # fmt: skip
def test_other_peoples_weights_that_do_not_fit_are_one_line(change, message, external, tmp_path):
    _, tensors, mapping = theirs()
    change(tensors, mapping)
    done = external(tensors, mapping)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_other_peoples_weights_are_logged_where_asked_to_once_and_later_too(external, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, tensors, mapping = theirs()
    model = "--model", "one_layer", "model.latents=[4]", "model.hidden=[[8]]"
    assert external(tensors, mapping).returncode == 0
    (folder,) = (tmp_path / "runs").glob("npz*")
    assert not (folder / "tensorboard").exists(), "none by default"
    for logger in ("tensorboard", "[csv,tensorboard]"):
        done = external(tensors, mapping, *model, f"logger={logger}")
        assert done.returncode == 0 and "these weights are already measured" in done.stderr, done.stderr
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    (nll,) = found.Scalars("test/nll")
    assert nll.value == pytest.approx(read_record(folder).metrics["test/nll"])
    assert set(found.Tags()["images"]) == {f"figures/{path.stem}" for path in (folder / "figures").glob("*.png")}
    at_once = external(tensors, mapping, *model, "logger=tensorboard", "k=7")
    assert at_once.returncode == 0, at_once.stderr
    (other,) = set((tmp_path / "runs").glob("npz*")) - {folder}
    assert len(EventAccumulator(str(other / "tensorboard")).Reload().Scalars("test/nll")) == 1


def test_what_evaluate_can_not_use_with_other_peoples_weights_is_one_line(external):
    _, tensors, mapping = theirs()
    trained = external(tensors, mapping, "--model", "one_layer", "schedule.epochs=3")
    assert trained.returncode == 1 and "schedule.epochs=3: expected keys of dataset, model" in trained.stderr
    unknown = external(tensors, mapping, "--model", "one_laver")
    assert unknown.returncode == 1 and "did you mean one_layer?" in unknown.stderr
    tracker = external(tensors, mapping, "--model", "one_layer", "logger=wanb")
    assert tracker.returncode == 1 and "did you mean wandb?" in tracker.stderr


@pytest.mark.parametrize(("given", "missing"), [("k=3", "dataset"), ("dataset=mnist", "k")])
def test_what_other_peoples_weights_were_trained_on_and_how_is_asked_for(given, missing, tmp_path):
    with pytest.raises(UserError, match=f"^{missing} is missing: expected {missing}=VALUE"):
        measure_external(tmp_path / "theirs.pt", "one_layer", None, [given])


def test_a_file_of_weights_needs_its_option(cli, tmp_path):
    torch.save({}, tmp_path / "theirs.pt")
    refused = cli("-m", "iwae_lab.evaluate", str(tmp_path / "theirs.pt"))
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "--weights FILE" in refused.stderr


def test_a_scale_for_discrete_latents_is_one_line():
    torch.manual_seed(0)
    model = SigmoidBeliefNetwork([3], [[]], mean_image=torch.rand(12))
    names = [name.removesuffix(".weight") for name, p in model.named_parameters() if p.dim() == 2]
    mapping = {"layers": {name: name for name in [*names, "prior_logits"]}, "scale": "sigma"}
    with pytest.raises(
        UserError, match="map scale=sigma: expected none, as SigmoidBeliefNetwork has no Gaussian"
    ) as error:
        load_mapped(model, model.state_dict(), mapping)
    assert "\n" not in str(error.value)
