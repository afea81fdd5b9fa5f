"""Runs that start from another one's weights."""

import numpy as np

from iwae_lab.export import export
from iwae_lab.runs.record import read_record
from iwae_lab.runs.run import run


def test_it_takes_exported_weights_and_says_where_they_saw_other_images(composed, tiny, tmp_path, caplog, capsys):
    first = run(composed(*tiny))
    weights = tmp_path / "first.safetensors"
    export(tmp_path / "runs" / first.run_id, weights)
    second = run(composed(*tiny, "seed=1", f"init_from={weights}", "schedule.learning_rate=1e-9"))
    assert abs(second.metrics["val/nll"] - first.metrics["val/nll"]) < 0.05
    assert second.identity["init_from"] == first.run_id
    assert read_record(tmp_path / "runs" / second.run_id).config["init_from"] == str(weights)
    assert "other images" not in caplog.text + capsys.readouterr().err
    with np.load(composed(*tiny).dataset.path) as images:
        np.savez(tmp_path / "other.npz", **{name: images[name][::-1] for name in images.files})
    run(composed(*tiny, f"init_from={weights}", f"dataset.path={tmp_path / 'other.npz'}"))
    assert "init_from: trained on other images (npz " in caplog.text + capsys.readouterr().err
