"""Models trained at once: the gradients of each are those it has alone, however steps are executed."""

import math
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
from helpers.objectives import EVERY, architecture, by_default, objective
from helpers.tapes import Traced, tapes

from iwae_lab.objectives.coupling import COUPLINGS
from iwae_lab.objectives.parameter_schedule import ParameterSchedule
from iwae_lab.training.batches import Batches
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.muon import Muon
from iwae_lab.training.stacked import StackedGradients
from iwae_lab.training.step import Step
from iwae_lab.training.steps import Steps

COMPILABLE = [spec for spec in EVERY if objective(spec).compilable]


def members(spec: str, seeds: list[int], noise: str = "iid") -> list[Gradients]:
    each = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = architecture(spec)([5, 4], [[10], [8]], mean_image=torch.full((32,), 0.3)).double()
        made = objective(spec).double()
        made.couple(noise)
        each.append(Gradients(model, made, 4))
    return each


def parameters(each: list[Gradients]) -> list[torch.nn.Parameter]:
    return [p for member in each for part in (member.model, member.objective) for p in part.parameters()]


def batch(models: int) -> torch.Tensor:
    return (torch.rand(models, 6, 32, generator=torch.Generator().manual_seed(0)) < 0.4).double()


@pytest.fixture
def no_chance() -> Iterator[None]:
    """Random numbers that depend on nothing but how many are drawn."""

    def normal(*shape, dtype=torch.float32, **_):
        size = torch.Size(shape[0] if isinstance(shape[0], tuple) else shape)
        return (1.7 * torch.arange(math.prod(size), dtype=torch.float64)).sin().mul(1.5).reshape(size).to(dtype)

    def uniform(*shape, **given):
        return normal(*shape, **given) / 4 + 0.5

    def uniform_like(tensor):
        return uniform(tensor.shape, dtype=tensor.dtype)

    with patch.multiple(torch, randn=normal, rand=uniform, rand_like=uniform_like):
        yield


@pytest.mark.parametrize("spec", by_default(COMPILABLE))
def test_gradients_at_once_are_those_of_each_alone(spec, no_chance):
    alone, together = (members(spec, [0, 1, 2]) for _ in range(2))
    x = batch(3)
    losses = [gradients(images) for gradients, images in zip(alone, x, strict=True)]
    torch.testing.assert_close(StackedGradients(together)(x), torch.stack(losses))
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found.sums, expected.sums)
        for p, q in zip(parameters([found]), parameters([expected]), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spec", by_default(COMPILABLE))
def test_each_has_noise_of_its_own(spec):
    for noise in COUPLINGS if objective(spec).couplable else ["iid"]:
        losses = StackedGradients(members(spec, [0, 0], noise))(batch(1).expand(2, -1, -1))
        assert losses[0] != losses[1]


def test_each_sees_every_image_in_an_order_of_its_own():
    images = torch.zeros(30, 50, dtype=torch.uint8)
    images[torch.arange(30), torch.arange(30)] = 255
    for shuffle in (True, False):
        batches = [x for group in Batches(images, 8, shuffle, stack=3) for x in group]
        assert all(x.is_contiguous() for x in batches), "compiled code knows the strides of the first"
        drawn = torch.cat(batches, dim=1)
        orders = drawn.argmax(-1)
        assert drawn.shape == (3, 30, 50) and torch.equal(orders.sort().values, torch.arange(30).expand(3, -1))
        assert torch.equal(orders[0], orders[1]) != shuffle


def after_steps(spec, factory, step_of=Step, mode="false", graphs=False):
    """All parameters after eight steps."""
    each = members(spec, [0, 1])
    torch.manual_seed(3)
    with tapes():
        execute = Steps(step_of(StackedGradients(each), factory.make(parameters(each), 0.01)), mode, graphs=graphs)
        execute([batch(2)[:, i : i + 3].contiguous() for i in (0, 1, 2, 3) * 2], [2**-7] * 8, 8)
    assert (execute.compiled is not None) == (mode == "true") and bool(execute.graphs) == graphs
    return [p.detach() for p in parameters(each)]


@pytest.mark.parametrize("how", [{"graphs": True}, {"step_of": Traced, "mode": "true"}], ids=["graphs", "compiled"])
@pytest.mark.parametrize("spec", by_default(COMPILABLE, slow=set(COMPILABLE) - {"iwae", "dreg", "rws"}))
def test_steps_are_the_same_however_they_are_executed(spec, how):
    expected = after_steps(spec, Adam())
    assert all((end != start).any() for end, start in zip(expected, parameters(members(spec, [0, 1])), strict=True))
    torch.testing.assert_close(after_steps(spec, Adam(), **how), expected, rtol=1e-6, atol=1e-6)


def test_steps_of_matrices_are_those_of_each_alone(no_chance):
    """Of Muon; SOAP's eigenvectors of eigenvalues near zero are those of rounding errors."""
    alone = []
    for i in range(2):
        (member,) = members("iwae", [i])
        step = Step(member, Muon().make(parameters([member]), 0.01))
        for _ in range(3):
            step(batch(2)[i], 0.01)
        alone += parameters([member])
    each = members("iwae", [0, 1])
    step = Step(StackedGradients(each), Muon().make(parameters(each), 0.01))
    for _ in range(3):
        step(batch(2), 0.01)
    torch.testing.assert_close(parameters(each), alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "noise"),
    [("dreg", "iid"), ("iwae", "rqmc"), ("ustat permutations=null", "iid"), ("beta_vae", "iid")],
)
def test_gradients_are_compiled(spec, noise):
    """As for CUDA's graphs, where the steps of optimizers are not. Those of beta_vae read an annealed buffer."""
    eager, compiled = (members(spec, [0, 1], noise) for _ in range(2))
    if spec == "beta_vae":
        for member in (*eager, *compiled):
            member.objective.anneal("beta", ParameterSchedule(0.0, 1.0, 5))
    gradients = StackedGradients(eager), StackedGradients(compiled)
    gradients = gradients[0], gradients[1].compiled(batch(2))
    for epoch in (2, 3):
        for stacked in gradients:
            torch.manual_seed(epoch)
            stacked.members[0].objective.begin_epoch(epoch)
            stacked(batch(2))
        for p, q in zip(parameters(eager), parameters(compiled), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-9)
