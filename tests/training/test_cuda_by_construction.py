"""What a machine without a GPU can tell of training on one.

The meta device has shapes and no values: reading a value on the host (`.item()`, a branch on a tensor, a shape that
depends on values) fails on it. Copies between the two are found by looking at every operation.
"""

import pytest
import torch
from helpers.no_copies import META, NoCopies
from helpers.objectives import EVERY, FOR_DISCRETE, architecture, by_default, objective
from helpers.tapes import tapes

from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork
from iwae_lab.training.batches import Batches
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.muon import Muon
from iwae_lab.training.optimizers.soap import Soap
from iwae_lab.training.schedules import Constant


def test_a_copy_is_found() -> None:
    with NoCopies(), pytest.raises(AssertionError, match="_to_copy"):
        torch.ones(3).to(META)


@pytest.mark.parametrize("spec", by_default(EVERY))
def test_gradients_of_a_training_step_need_no_value_on_the_host(spec):
    images = torch.empty(60, 784, dtype=torch.uint8, device=META)
    schedule = Constant(epochs=1, batch_size=40, learning_rate=1e-3)
    for kind in [architecture(spec)] + [SigmoidBeliefNetwork] * (spec.split()[0] in FOR_DISCRETE):
        model = kind([8, 4], [[16], [8]], mean_image=torch.rand(784))
        training = Training(model, objective(spec), Adam(), schedule, k=5, compile="false").to(META)
        training.on_train_epoch_start()
        with NoCopies():
            for batches in Batches(images, schedule.batch_size):
                for x in batches:
                    training.zero_grad()
                    training.add_gradients(x)
        assert all(p.grad is not None and p.grad.device == META for p in model.parameters())


@pytest.mark.parametrize("factory", [Muon(), Soap(precondition_frequency=2)], ids=["muon", "soap"])
def test_a_step_of_an_optimizer_needs_no_value_on_the_host(factory):
    parameters = [torch.nn.Parameter(torch.empty(shape, device=META)) for shape in [(20, 300), (5, 5), (7,)]]
    optimizer = factory.make(parameters, 1e-3)
    with NoCopies():
        for _ in range(5):
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()


def test_reading_a_value_while_a_graph_is_captured_is_an_error():
    with tapes(), torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(RuntimeError, match="capturing"):
        torch.ones(3).sum().item()
