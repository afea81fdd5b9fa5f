"""`experiment=authors`: the recipe of the published code of Burda et al."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers.commands import records
from helpers.no_copies import META, NoCopies

from iwae_lab.console.errors import UserError
from iwae_lab.training.batches import Batches
from iwae_lab.training.optimizers.adam_authors import AdamAuthors
from iwae_lab.training.schedules import Authors

BATCH = 5


def run_authors(start, sums, rates):
    """Their update in numpy, for gradients of the bound's sum; every right-hand side has the values before the step."""
    parameter, mean, square, timestep = start, np.zeros_like(start), np.ones_like(start), 1
    for gradient, rate in zip(sums, rates, strict=True):
        alpha = rate * math.sqrt(1 - 0.999**timestep) / (1 - 0.99**timestep)
        parameter, mean, square, timestep = (
            parameter + alpha * mean / (np.sqrt(square) + 1e-4),
            0.99 * mean + (1 - 0.99) * gradient,
            0.999 * square + (1 - 0.999) * gradient**2,
            timestep + 1,
        )
    return parameter


def run_ours(start, losses, rates, dtype=torch.float64, resumed_after=None):
    """Where `AdamAuthors` takes `start` with these gradients of the mean loss, one for each step."""
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=dtype))
    optimizer = AdamAuthors(BATCH).make([parameter], 1.0)
    for index, (gradient, rate) in enumerate(zip(losses, rates, strict=True)):
        if index == resumed_after:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = AdamAuthors(BATCH).make([parameter], 1.0)
            optimizer.load_state_dict(state)
        optimizer.param_groups[0]["lr"] = float(rate)
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
    return parameter.detach()


def a_problem(steps=20):
    """A start, gradients of the sum of the bound over a batch, from 1e-5 to 10 in size, and rates."""
    random = np.random.RandomState(0)
    sizes = 10.0 ** np.arange(-5, 2)
    return random.randn(7), random.randn(steps, 7) * sizes, 0.001 * 0.9 ** np.arange(steps)


def test_twenty_steps_are_the_authors() -> None:
    start, sums, rates = a_problem()
    found = run_ours(start, -sums / BATCH, rates)
    np.testing.assert_allclose(found.numpy(), run_authors(start, sums, rates), rtol=0, atol=1e-13)
    single = run_ours(start, -sums / BATCH, rates, dtype=torch.float32)
    torch.testing.assert_close(single, found.float(), rtol=1e-6, atol=1e-8)


def test_steps_resume_from_a_saved_state() -> None:
    start, sums, rates = a_problem()
    assert torch.equal(run_ours(start, sums, rates, resumed_after=7), run_ours(start, sums, rates))


def test_a_step_needs_no_value_on_the_host() -> None:
    parameters = [torch.nn.Parameter(torch.empty(shape, device=META)) for shape in [(20, 300), (7,)]]
    optimizer = AdamAuthors(BATCH).make(parameters, 1e-3)
    with NoCopies():
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_can_be_captured_in_a_cuda_graph() -> None:
    """Also one whose state was loaded from a CPU's checkpoint; the rate is a tensor that changes between replays."""
    start, sums, rates = a_problem()
    parameter = torch.nn.Parameter(torch.tensor(start, device="cuda"))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = AdamAuthors(BATCH).make([parameter], 1.0)
    optimizer.step()
    with torch.no_grad():
        parameter.copy_(torch.tensor(start))
    fresh = {"step": torch.tensor(0.0), "mean": torch.zeros(7), "square": torch.ones(7)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: fresh}})
    optimizer.param_groups[0]["lr"] = rate = torch.zeros((), dtype=torch.float64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for gradient, value in zip(-sums / BATCH, rates, strict=True):
        parameter.grad.copy_(torch.tensor(gradient))
        rate.fill_(value)
        graph.replay()
    np.testing.assert_allclose(parameter.detach().cpu().numpy(), run_authors(start, sums, rates), rtol=0, atol=1e-13)


def test_rates_are_rounded_to_a_tenth() -> None:
    rates = [Authors().rate(start) for start in (0, 1, 4, 13, 40, 121, 364, 1093, 3279)]
    assert rates == pytest.approx([1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4, 1e-4])


def test_without_shuffling_every_epoch_has_the_order_given() -> None:
    images = 255 * torch.eye(9, dtype=torch.uint8)
    in_order, shuffled = Batches(images, 2, shuffle=False), Batches(images, 2)
    for _ in range(2):
        batches = [x for batches in in_order for x in batches]
        assert [len(x) for x in batches] == [2, 2, 2, 2, 1]
        assert torch.equal(torch.cat(batches), torch.eye(9))
    orders = {tuple(torch.cat([x for batches in shuffled for x in batches]).argmax(1).tolist()) for _ in range(5)}
    assert len(orders) > 1


def test_the_experiment_trains(cli, tiny, tmp_path) -> None:
    done = cli("train.py", "experiment=authors", *tiny, "objective=vae")
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "runs")
    assert record["schedule"] == "authors"
    assert record["config"]["optimizer"] == {
        "name": "adam_authors", "_target_": "iwae_lab.training.optimizers.adam_authors.AdamAuthors",
        "batch_size": 100, "beta1": 0.99, "beta2": 0.999, "eps": 1e-4,
    }  # fmt: skip
    assert record["metrics"]["test/nll"] < 500


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"beta1": 0.0}, {"beta2": 1.0}, {"eps": 0.0}])
def test_refuses(wrong) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"^{name}="):
        AdamAuthors(**{"batch_size": 20} | wrong)
