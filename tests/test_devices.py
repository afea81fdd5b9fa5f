"""Training on several devices, here CPU processes: the same model as on one, and a run as any other."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from conftest import ROOT, records
from omegaconf import DictConfig
from test_objectives import ALL, objective
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from iwae_lab.console.errors import UserError
from iwae_lab.models.distributions import Bernoulli, Gaussian, StandardNormal
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.mlmc import MLMC
from iwae_lab.objectives.sumo import SUMO
from iwae_lab.runs.record import read_metrics
from iwae_lab.runs.run import run
from iwae_lab.training import distributed
from iwae_lab.training.batches import ImageData
from iwae_lab.training.checkpoints import LastCheckpoint
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.schedules import Constant

Cli = Callable[..., subprocess.CompletedProcess[str]]
Composed = Callable[..., DictConfig]
Trained = tuple[Tensor, dict[str, float]]

TIMES = {"images_per_second": 0.0, "minutes": 0.0}  # which differ from run to run

TWO = ["accelerator=cpu", "trainer.devices=2"]

# which draw more than z
AT_RANDOM = ("iwae_single", "iwae_resampled kept=2", "dreg_resampled kept=2", "annealed_wake_sleep", "ustat")
WITHOUT_CHOICES = [spec for spec in ALL if spec not in AT_RANDOM and not spec.startswith("annealed_wake_sleep")]


def fixed_noise(self, shape, generator=None) -> Tensor:
    """Of a sample and unit, the same for every image and so in every share."""
    samples = (shape[0], 1) if len(shape) == 3 else (1,)
    n = shape[0] * shape[-1] if len(shape) == 3 else shape[-1]
    return (0.5 + 0.4 * torch.arange(n).sin()).view(*samples, shape[-1]).expand(shape)


def train(spec: str) -> Trained:
    """Weights, running means and metrics after an epoch of eleven images in batches of five: the last has one."""
    for distribution in (Gaussian, Bernoulli, StandardNormal):
        distribution.noise = fixed_noise
    SUMO._terms = lambda self, uniform: 2
    MLMC._level = lambda self, uniform: 2
    torch.manual_seed(0)
    images = 255 * torch.randint(0, 2, (11, 6), dtype=torch.uint8)
    model = HierarchicalModel([4], [[8]], mean_image=torch.full((6,), 0.4))
    module = Training(model, objective(spec), Adam(), Constant(1, 5, 0.01), k=3)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(distributed.rank())
    trainer.fit(module, datamodule=ImageData(images, images.clamp(max=1), (2, 3), 5))
    assert module.images_seen == 11
    state = torch.cat([parameters_to_vector(module.parameters()), *(b.flatten() for b in module.buffers())])
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    return state.detach(), metrics


def train_together() -> tuple[dict[str, Trained], Tensor]:
    """What each objective ends with, and a random number of each device."""
    found = {}
    for spec in WITHOUT_CHOICES:
        state, metrics = train(spec)
        assert torch.equal(distributed.broadcast(state.clone()), state), f"{spec}: weights differ between devices"
        found[spec] = state, metrics
    torch.manual_seed(0)
    if distributed.rank():
        distributed.OwnNoise(0).on_train_epoch_start(SimpleNamespace(current_epoch=0), None)
    numbers = torch.zeros(distributed.world_size())
    numbers[distributed.rank()] = torch.rand(())
    return found, distributed.all_reduce(numbers)


def train_and_fail() -> None:
    train_together()
    raise ValueError("tired")


@pytest.mark.filterwarnings("ignore:.*(sync_dist|num_workers|logging interval)")
def test_two_devices_train_as_one_given_the_same_noise_and_a_failing_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every objective, with a ragged last batch of which the second device has no image."""
    for cls, name in (
        (Gaussian, "noise"),
        (Bernoulli, "noise"),
        (StandardNormal, "noise"),
        (SUMO, "_terms"),
        (MLMC, "_level"),
    ):
        monkeypatch.setattr(cls, name, getattr(cls, name))  # so that it takes back what `train` does
    with (
        pytest.raises(RuntimeError, match=r"^device 1 failed: ValueError: tired$"),
        distributed.workers(2, "cpu", train_and_fail),
    ):
        together, numbers = train_together()
        distributed.all_reduce(torch.ones(1))
    assert distributed.world_size() == 1
    assert numbers[0] != numbers[1], "noise of its own"
    for spec, (state, metrics) in together.items():
        alone, metrics_alone = train(spec)
        torch.testing.assert_close(state, alone, rtol=1e-4, atol=1e-5, msg=lambda text, spec=spec: f"{spec}: {text}")
        assert metrics == pytest.approx(metrics_alone, rel=1e-4), spec


def test_more_devices_than_there_are_are_refused(
    composed: Composed, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"^trainer.devices=101: expected at most schedule.batch_size=100$"):
        run(composed(*tiny, "accelerator=cpu", "trainer.devices=101"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"^trainer.devices=2: expected at most 1, the GPUs"):
        run(composed(*tiny, "trainer.devices=2"))
    assert not (tmp_path / "runs" / ".locks").exists(), "nothing was started"


@pytest.mark.slow
def test_a_run_on_two_devices_is_a_run_and_goes_on_as_if_it_had_not_been_killed(
    cli: Cli, composed: Composed, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*tiny, *TWO, "schedule.epochs=4"]
    whole, killed = tmp_path / "runs", tmp_path / "killed"
    save = LastCheckpoint.on_train_epoch_end

    def save_and_copy(self: LastCheckpoint, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        save(self, trainer, module)
        if trainer.current_epoch == 1:
            shutil.copytree(whole, killed)  # what SIGKILL would leave here

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", save_and_copy)
    record = run(composed(*overrides))
    assert record.status == "finished" and record.steps == 4 * 40 and record.images_per_second > 0
    assert record.metrics["test/nll"] < 250
    curve = read_metrics(whole / record.run_id)
    assert [row["epoch"] for row in curve] == [1, 2, 3, 4]
    assert curve[-1]["train/bound"] > curve[0]["train/bound"]

    done = cli("train.py", *overrides, f"runs_dir={killed}")
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert done.stderr.count("\n") == 2, "the folder and the checkpoint, and nothing that helpers say"
    (resumed,) = records(killed)
    assert (resumed["run_id"], resumed["status"]) == (record.run_id, "finished")
    assert resumed["metrics"] == record.metrics
    for before, after in zip(curve, read_metrics(killed / record.run_id), strict=True):
        assert {**before, **TIMES} == {**after, **TIMES}


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_helpers_end_with_the_run(tiny: list[str], tmp_path: Path, kill: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "train.py", *tiny, *TWO, "schedule.epochs=1000"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        while not list(tmp_path.glob("runs/*/checkpoints/last.ckpt")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        if kill == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, kill)  # as a terminal or Slurm does, to helpers too
        _, said = process.communicate(timeout=60)  # whoever lives holds stderr open
    assert process.returncode != 0
    assert "Traceback" not in said
    assert kill == signal.SIGKILL or said.endswith("interrupted; the same command resumes from the last checkpoint\n")
    (record,) = records(tmp_path / "runs")
    assert record["status"] == "running"


@pytest.mark.slow
def test_a_job_of_a_parallel_multirun_has_helpers_too(cli: Cli, tiny: list[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = cli("train.py", "-m", "hydra/launcher=joblib", *tiny, *TWO, "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert "2 finished" in done.stdout
