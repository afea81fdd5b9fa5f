"""What a step of training refuses."""

import pytest
import torch
from torch import Tensor

from iwae_lab.console.errors import UserError
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.base import Estimate
from iwae_lab.objectives.iwae import IWAE
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.muon import Muon
from iwae_lab.training.schedules import Constant


class Transposed(IWAE):
    def forward(self, model: LatentVariableModel, x: Tensor, k: int) -> Estimate:
        found = super().forward(model, x, k)
        return Estimate(found.loss, found.log_w.T)


def test_log_weights_the_wrong_way_round() -> None:
    model = HierarchicalModel([4], [[8]], mean_image=torch.rand(20))
    schedule = Constant(epochs=1, batch_size=5, learning_rate=1e-3)
    training = Training(model, Transposed(), Muon(), schedule, k=3, compile="false")
    training.on_train_epoch_start()
    with pytest.raises(UserError, match=r"objective=Transposed: expected log_w \[k, batch\].*found \[5, 3\]"):
        training.add_gradients(torch.zeros(5, 20))
