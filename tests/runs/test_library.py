"""The package in a notebook."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.commands import records
from omegaconf import DictConfig

import iwae_lab
from iwae_lab.console.errors import UserError
from iwae_lab.runs.run import run


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, iwae_lab; print(*({'torch', 'hydra', 'pytorch_lightning', 'numpy', 'wandb'} & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "" and time.monotonic() - start < 5


def test_every_public_name_is_there_and_others_are_not() -> None:
    assert all(getattr(iwae_lab, name) is not None for name in iwae_lab.__all__)
    assert set(dir(iwae_lab)) == set(iwae_lab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        iwae_lab.nothing  # noqa: B018


def test_a_model_an_objective_a_step_and_a_measurement() -> None:
    torch.manual_seed(0)
    images = torch.rand(20, 36)
    model = iwae_lab.HierarchicalModel([5], [[16]], mean_image=images.mean(0))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    before = iwae_lab.likelihood(model, images.round(), k=100).nll
    for _ in range(20):
        optimizer.zero_grad()
        iwae_lab.IWAE()(model, images.round(), k=5).backward(model)
        optimizer.step()
    assert iwae_lab.likelihood(model, images.round(), k=100).nll < before
    with pytest.raises(UserError, match=r"^k=0: expected an integer of at least 1"):
        iwae_lab.DReG()(model, images.round(), k=0)
    with pytest.raises(UserError, match=r"^mean_image=0 to 255: expected pixels between 0 and 1"):
        iwae_lab.HierarchicalModel([5], [[16]], mean_image=torch.tensor([0.0, 255.0]))
    with pytest.raises(UserError, match=r"^latents=5: expected the units of one or more layers"):
        iwae_lab.HierarchicalModel(5, [[16]], mean_image=torch.rand(4))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^hidden=\[16\]: expected a list of widths"):
        iwae_lab.HierarchicalModel([5], [16], mean_image=torch.rand(4))  # type: ignore[list-item]


def test_a_run_and_its_records_come_back(
    composed: Callable[..., DictConfig],
    tiny: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = run(composed(*tiny, "model=two_layer", "model.latents=[4,3]", "model.hidden=[[8],[8]]"))
    loaded = iwae_lab.load(tmp_path / "runs" / record.run_id)
    assert loaded.record == record
    images = loaded.data.test[:6]
    assert loaded.log_weights(images, 7).shape == (7, 6)
    assert [tuple(latents.shape) for latents in loaded.latents(images)] == [(6, 4), (6, 3)]
    mean = loaded.model.encoder[0](images.float()).mean
    torch.testing.assert_close(loaded.latents(images)[0], mean)
    assert loaded.reconstruct(images).shape == images.shape
    grey = loaded.data.train[:6]
    uses = [loaded.latents, loaded.reconstruct, lambda x: loaded.log_weights(x, 7)]
    for use in [*uses, lambda x: iwae_lab.active_units(loaded.model, x), lambda x: iwae_lab.ais(loaded.model, x)]:
        with pytest.raises(UserError, match=r"values up to \d+: expected 0 and 1 alone.*train_draw"):
            use(grey)
        with pytest.raises(UserError, match=r"^images of shape \[6, 9\]: the model can't take them"):
            use(images[:, :9])
        with pytest.raises(UserError, match=r"^images of type ndarray: expected a torch tensor"):
            use(images.numpy())
    with pytest.raises(UserError, match=r"^k=0: expected an integer of at least 1"):
        loaded.latents(images, k=0)
    for other in ({"precision": "fp16"}, {"compile": "yes"}):
        with pytest.raises(UserError, match="expected one of"):
            iwae_lab.likelihood(loaded.model, images, 3, **other)
    with pytest.raises(UserError, match=r"^k=5: expected one of checkpoint=…, evaluation\.k"):
        iwae_lab.load(tmp_path / "runs" / record.run_id, "k=5")
    everything = iwae_lab.load_all(tmp_path / "runs")
    assert len(everything) == len(records(tmp_path / "runs")) == 1
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "result.json").write_text("{")
    assert len(iwae_lab.load_all(tmp_path / "runs")) == 1
    assert "left out: unreadable: " in caplog.text + capsys.readouterr().err  # of a log that commands set up


def test_records_are_a_frame_where_pandas_is_installed(
    composed: Callable[..., DictConfig], tiny: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("pandas")
    record = run(composed(*tiny))
    frame = iwae_lab.load_all(tmp_path / "runs")
    (row,) = frame.to_dict("records")
    assert (row["run_id"], row["test/nll"], row["seed"]) == (record.run_id, record.metrics["test/nll"], 0)
    assert row["schedule.batch_size"] == "100"
    assert [row["test/active_units/1"]] == record.metrics["test/active_units"]
    assert [Path(folder).name for folder in frame.index] == [record.run_id]
