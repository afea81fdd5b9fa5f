"""Mistakes found in public implementations of these methods; README.md lists those that other tests are for."""

import csv

import pytest
import pytorch_lightning as pl
import torch
from helpers.oracle import linear_gaussian

from iwae_lab.bounds import iwae_bound
from iwae_lab.console.errors import UserError
from iwae_lab.data.mnist_5k import MNIST5k
from iwae_lab.data.protocol import prepare
from iwae_lab.evaluation.ais import Annealing, ais, reverse_ais
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.models.distributions import StandardNormal
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.base import Estimate, Objective
from iwae_lab.objectives.dreg import DReG
from iwae_lab.runs.run import run
from iwae_lab.runs.trained import load
from iwae_lab.training.batches import Batches, ImageData
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.schedules import LinearDecay


def training(objective: Objective) -> Training:
    torch.manual_seed(0)
    model = HierarchicalModel([4], [[8]], mean_image=torch.full((6,), 0.4))
    module = Training(model, objective, Adam(), LinearDecay(1, 2, 0.001), k=3)
    module.on_train_epoch_start()
    return module


class NothingForPhi(Objective):
    def forward(self, model, x, k):
        log_w = model.log_weights(x, k)
        return Estimate(-iwae_bound(log_w).mean(), log_w, 0 * log_w.mean())


def test_the_encoder_descends_its_own_loss_in_training_too():
    module = training(NothingForPhi())
    before = {name: parameter.clone() for name, parameter in module.model.named_parameters()}
    images = torch.randint(0, 256, (8, 6), dtype=torch.uint8)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=ImageData(images, (images > 127).byte(), (2, 3), 4))
    for name, parameter in module.model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("encoder"), name


def test_the_surrogate_is_not_logged_as_the_bound():
    """Σ w̃·log w ≥ L̂_k would flatter the objective."""
    module, x = training(DReG()), torch.eye(6)
    torch.manual_seed(1)
    surrogate = -module.add_gradients(x)
    torch.manual_seed(1)
    bound = iwae_bound(module.model.log_weights(x, 3)).mean()
    module.epoch_images = len(x)
    assert module.train_bound() == pytest.approx(bound.item(), rel=1e-5)
    assert surrogate > bound + 0.01


def test_a_ragged_last_batch_counts_by_its_images():
    module, batches = training(DReG()), [torch.eye(6)[:4], torch.eye(6)[4:5]]
    torch.manual_seed(1)
    for x in batches:
        module.add_gradients(x)
    torch.manual_seed(1)
    per_image = torch.cat([iwae_bound(module.model.log_weights(x, 3)) for x in batches])
    module.epoch_images = len(per_image)
    assert module.train_bound() == pytest.approx(per_image.mean().item(), rel=1e-5)


def test_no_training_image_is_dropped_with_a_ragged_last_batch():
    images = torch.zeros(7, 9, dtype=torch.uint8)
    images[range(7), range(7)] = 255
    batches = [x for batches in Batches(images, 3) for x in batches]
    assert [len(x) for x in batches] == [3, 3, 1] and Batches(images, 3).batches == 3
    seen = torch.cat(batches)
    torch.testing.assert_close(seen.sum(0), torch.tensor([1.0] * 7 + [0.0] * 2))


def test_the_prior_is_the_standard_normal_density():
    """Not exp(−¼h²), nor without its constant."""
    z = torch.linspace(-3, 3, 12, dtype=torch.float64).view(3, 2, 2)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(StandardNormal(torch.zeros(2, dtype=torch.float64)).log_prob(z), expected)


def test_training_validation_and_test_images_are_all_binary(tmp_path):
    data = prepare(MNIST5k(), tmp_path, 10, None)
    for images in (data.val, data.test, next(iter(Batches(data.train, 200)))[0]):
        assert images.unique().tolist() == [0, 1]


@pytest.mark.parametrize("temperatures", [2, 8])
def test_annealed_bounds_are_normalised_by_the_number_of_chains(temperatures):
    """Not of temperatures, and the mean of the reverse weights is taken before the inverse, not after."""
    model = linear_gaussian(1)
    torch.manual_seed(0)
    with torch.no_grad():
        x, z = model.sample_joint(2000)
        truth = model.log_marginal(x)
    how = Annealing(4, temperatures)
    lower = ais(model, x, how, rows=8000).bound
    upper = reverse_ais(model, x, z, how, rows=8000).bound
    for ratio in ((lower - truth).exp(), (truth - upper).exp()):
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 2000**0.5 < 0.2


def test_the_test_set_selects_nothing_and_the_best_checkpoint_holds_its_own_optimizer(composed, tiny, tmp_path):
    record = run(composed(*tiny, "schedule.epochs=3", "schedule.learning_rate=0.05", "optimizer=adam"))
    folder = tmp_path / "runs" / record.run_id
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert not [column for column in rows[0] if "test" in column]
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    highest = max(rows, key=lambda row: float(row["val/bound"] or "-inf"))
    assert best["epoch"] + 1 == float(highest["epoch"])
    assert {state["step"].item() for state in best["optimizer_states"][0]["state"].values()} == {best["global_step"]}
    (folder / "checkpoints/last.ckpt").unlink()
    loaded = load(folder, "checkpoint=best")
    measured = -likelihood(loaded.model, loaded.data.val, record.k).nll
    assert measured == pytest.approx(float(highest["val/bound"]), rel=1e-6)
    with pytest.raises(UserError, match=r"checkpoint=first: expected one of last, best"):
        load(folder, "checkpoint=first")
