"""Runs that start from another one's weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from iwae_lab.export import export
from iwae_lab.runs.experiment import resolve
from iwae_lab.runs.record import read_record
from iwae_lab.runs.run import run


def test_it_takes_exported_weights_and_says_where_they_saw_other_images(composed, tiny, tmp_path, caplog, capsys):
    first = run(composed(*tiny))
    weights = tmp_path / "first.safetensors"
    export(tmp_path / "runs" / first.run_id, weights)
    second = run(composed(*tiny, "seed=1", f"init_from={weights}", "schedule.learning_rate=1e-9"))
    assert abs(second.metrics["val/nll"] - first.metrics["val/nll"]) < 0.05
    assert second.identity["init_from"].startswith(f"{first.run_id}#")
    assert read_record(tmp_path / "runs" / second.run_id).config["init_from"] == str(weights)
    assert "other images" not in caplog.text + capsys.readouterr().err
    with np.load(composed(*tiny).dataset.path) as images:
        np.savez(tmp_path / "other.npz", **{name: images[name][::-1] for name in images.files})
    run(composed(*tiny, f"init_from={weights}", f"dataset.path={tmp_path / 'other.npz'}"))
    assert "init_from: trained on other images (npz " in caplog.text + capsys.readouterr().err


def test_a_run_and_its_weights_alone_and_other_weights_are_different_starts(composed, tiny, tmp_path):
    folder, weights = tmp_path / "runs" / run(composed(*tiny)).run_id, tmp_path / "first.safetensors"
    export(folder, weights)
    ids = [resolve(composed(*tiny, f"init_from={start}")).run_id for start in (folder, weights, weights)]
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    ids.append(resolve(composed(*tiny, f"init_from={weights}")).run_id)
    assert ids[1] == ids[2] and len(set(ids)) == 3


ADAM, SOAP = "optimizer=adam", "optimizer=soap"
LEARNED, UHA = [ADAM, "objective=ciwae", "objective.learned=true"], [ADAM, "objective=uha"]


@pytest.mark.parametrize(
    ("first", "second", "objective", "optimizer"),
    [
        (LEARNED, LEARNED, "kept", "kept"),
        (LEARNED, [*LEARNED, "objective.beta=0.1"], "new", "of the model"),
        (LEARNED, UHA, "new", "of the model"),
        (UHA, [*UHA, "objective.steps=3"], "new", "of the model"),
        ([SOAP], [SOAP, "optimizer.max_precond_dim=5"], "new", "new"),
        ([SOAP], [ADAM], "new", "new"),
    ],
)
def test_state_of_other_settings_is_not_taken_over(composed, tiny, first, second, objective, optimizer):
    folder = resolve(composed(*tiny, *first)).folder
    run(composed(*tiny, *first))
    experiment = resolve(composed(*tiny, *second, f"init_from={folder}"))
    training = experiment.training("32", 0)
    state = training.configure_optimizers().state
    fresh, now = experiment.objective.state_dict(), training.objective.state_dict()
    assert all(torch.equal(now[name], fresh[name]) for name in fresh) == (objective == "new")
    of_model, all_ = list(training.model.parameters()), list(training.parameters())
    expected = {"kept": all_, "of the model": of_model, "new": []}[optimizer]
    assert {id(parameter) for parameter in state} == {id(parameter) for parameter in expected}
