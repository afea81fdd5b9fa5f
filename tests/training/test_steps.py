"""How steps are executed: calls, compiled code, and graphs on tapes; on a GPU, see tests/benchmarks/gpu/check.py."""

import copy
import shutil

import hypothesis.strategies as st
import pytest
import torch
from helpers.objectives import EVERY, architecture, by_default, objective
from helpers.tapes import Traced, tapes
from hypothesis import given, settings
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from iwae_lab.console.errors import UserError
from iwae_lab.models.compiling import Choice
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.objectives.base import Estimate
from iwae_lab.objectives.parameter_schedule import ParameterSchedule
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.adam_authors import AdamAuthors
from iwae_lab.training.optimizers.muon import Muon
from iwae_lab.training.optimizers.soap import Soap
from iwae_lab.training.step import IncompleteState, Step
from iwae_lab.training.steps import Steps

SOAP = Soap(precondition_frequency=3)
FACTORIES = [Adam(), Muon(), SOAP]


def each_factory(*kinds, of):
    """For a parametrised test: each factory, slow unless it is one of these kinds."""
    factories = [f if type(f) in kinds else pytest.param(f, marks=pytest.mark.slow) for f in of]
    return pytest.mark.parametrize("factory", factories, ids=lambda factory: type(factory).__name__)


def trained(factory, batches, together, *, rate=float, graphs=False):
    """Parameters after a step on each of `batches`, given `together` at a time; and the execution."""
    parameters = [torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))]

    def gradients(x):
        loss = (x @ parameters[0] + parameters[1]).square().mean() + parameters[0].sum()
        loss.backward()
        return loss.detach()

    execute = Steps(Step(gradients, factory.make(parameters, 0.1)), "false", graphs=graphs)
    rates = [rate(0.1 / (1 + step)) for step in range(len(batches))]
    for start in range(0, len(batches), together):
        group = slice(start, start + together)
        execute(batches[group], rates[group], len(batches) - start)
    return [parameter.detach() for parameter in parameters], execute


@each_factory(Adam, Muon, Soap, of=FACTORIES)
def test_steps_are_those_of_a_plain_loop_whatever_is_given_together(factory):
    batches = list(torch.randn(20, 8, 4))
    parameters = [torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))]
    optimizer = factory.make(parameters, 0.1)
    for step, x in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad()
        ((x @ parameters[0] + parameters[1]).square().mean() + parameters[0].sum()).backward()
        optimizer.step()
    for together in (1, 7, 20):
        found, _ = trained(factory, batches, together)
        torch.testing.assert_close(found, [parameter.detach() for parameter in parameters], rtol=0, atol=0)


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 60),
    together=st.integers(1, 45),
    ragged=st.booleans(),
    factory=st.sampled_from(FACTORIES),
)
def test_graphs_hold_every_full_batch_once_and_end_where_a_refresh_is_due(count, together, ragged, factory):
    batches = [torch.randn(8, 4) for _ in range(count)]
    if ragged:
        batches[-1] = batches[-1][:3] if count > 1 else batches[-1]
    expected, _ = trained(factory, batches, together, rate=torch.tensor)  # in fp32, as graphs have it
    with tapes():
        found, execute = trained(factory, batches, together, graphs=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    calls = min(count, Steps.WARM_UP) + (ragged and count > max(1, Steps.WARM_UP))
    assert sum(steps * captured.graph.replays for steps, captured in execute.graphs.items()) == count - calls
    period = getattr(execute.step.optimizer, "period", None) or Steps.LONGEST
    assert max(execute.graphs, default=0) <= min(period, together, Steps.LONGEST)


def learned(step_of, mode, factory, spec="iwae", steps=8, together=1, resume_at=None, graphs=False):
    """Losses of calls, and all that is kept, of steps in float64, the last on a smaller batch.

    resume_at: the step at which execution begins anew, from the optimizer's state as a graph leaves it.
    """
    torch.manual_seed(0)
    model = architecture(spec)([3, 2], [[16], [4]], mean_image=torch.full((32,), 0.3)).double()
    made = objective(spec)
    if spec.startswith("beta_vae"):
        made.anneal("beta", ParameterSchedule(0.0, 1.0, 5))
    parameters = [*model.parameters(), *made.parameters()]
    losses = []

    def begin(state=None):
        optimizer = factory.make(parameters, 0.01)
        if state:
            optimizer.load_state_dict(state)
        return Steps(step_of(gradients, optimizer), mode, graphs=graphs, after_call=losses.append)

    gradients = Gradients(model, made, 4)
    execute = begin()
    rates = [0.5 ** (7 + i % 3) for i in range(steps)]  # compiled code and graphs read them in fp32
    for i in range(0, steps, together):
        made.begin_epoch(i // 2)
        if i == resume_at:
            state = copy.deepcopy(execute.step.optimizer.state_dict())
            state["param_groups"][0]["lr"] = torch.tensor(rates[i])
            execute = begin(state)
        batches = [(torch.rand(5 - (j == steps - 1), 32) < 0.3).double() for j in range(i, min(i + together, steps))]
        execute(batches, rates[i : i + together], steps - i)
    assert (execute.compiled is not None) == (mode != "false")
    state = execute.step.optimizer.state_dict()
    del state["param_groups"][0]["lr"]  # a tensor of a graph, or a number
    return torch.stack(losses), [p.detach() for p in parameters], gradients.sums, state


def assert_same(found, expected, factory=None, atol=1e-6):
    """But for SOAP's state: eigenvectors of eigenvalues near zero are those of rounding errors."""
    kept = slice(-1) if isinstance(factory, Soap) else slice(None)
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-6, atol=atol)


@each_factory(Adam, Soap, of=[*FACTORIES, AdamAuthors(5)])
def test_operations_that_are_compiled_take_the_steps_of_calls_with_the_same_noise(factory):
    assert_same(learned(Traced, "true", factory), learned(Step, "false", factory), factory)


@pytest.mark.slow
@pytest.mark.parametrize("spec", EVERY)
def test_they_do_for_every_objective_that_is_compiled(spec):
    if not objective(spec).compilable:
        pytest.skip("it is never compiled")
    assert_same(learned(Traced, "true", Adam(), spec), learned(Step, "false", Adam(), spec))


@each_factory(Soap, of=FACTORIES)
def test_compiled_steps_resumed_are_those_not_interrupted(factory):
    found, expected = (learned(Traced, "true", factory, resume_at=at) for at in (5, None))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Again(Step):
    """A compiled step without a compiler, which graphs can hold: another step."""

    def compiled(self, x):
        return Step(self.gradients, self.optimizer)


@pytest.mark.parametrize("step_of, graphs", [(Traced, False), (Again, True)], ids=["calls", "graphs"])
def test_auto_goes_over_to_compiled_steps_on_the_way(step_of, graphs, monkeypatch):
    monkeypatch.setattr(Choice, "COST", 0)
    monkeypatch.setattr(Choice, "TIMED", 2)
    plan = {"steps": 120, "together": 40} if graphs else {}
    with tapes():
        found = learned(step_of, "auto", Adam(), graphs=graphs, **plan)
    assert_same(found[1:], learned(Step, "false", Adam(), **plan)[1:])


@pytest.mark.parametrize("spec", by_default(EVERY))
def test_graphs_hold_every_objective(spec):
    """They read what changes between their replays (rates, epochs, noise) and do all that calls do."""
    if not objective(spec).compilable:
        pytest.skip("no graph holds it")
    plan = {"spec": spec, "steps": 20, "together": 6}
    with tapes():
        found = learned(Step, "false", Adam(), graphs=True, **plan)
    torch.testing.assert_close(found[1:], learned(Step, "false", Adam(), **plan)[1:], rtol=0, atol=0)


@pytest.mark.parametrize("factory", [*FACTORIES, AdamAuthors(5)], ids=lambda factory: type(factory).__name__)
def test_graphs_resume_where_they_were_interrupted(factory):
    plan = {"steps": 24, "together": 6, "graphs": True}
    with tapes():
        found, expected = (learned(Step, "false", factory, resume_at=at, **plan) for at in (12, None))
    torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=0)


def test_an_optimizer_without_its_state_is_compiled_once_it_is_complete():
    """As one that resumes after its first step: SOAP's makes no steps yet."""
    gradients = Gradients(HierarchicalModel([2], [[4]], mean_image=torch.rand(6)), objective("iwae"), 2)
    step = Traced(gradients, Soap().make(gradients.model.parameters(), 0.1))
    step(torch.zeros(3, 6), 0.1)
    with pytest.raises(IncompleteState):
        step.compiled(torch.zeros(3, 6))
    execute = Steps(step, "true", graphs=False)
    execute([torch.zeros(3, 6)] * 6, [0.1] * 6, 6)
    assert execute.compiled is not None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("factory", "atol"),
    [(Adam(), 1e-6), (Muon(), 1e-6), (AdamAuthors(5), 1e-6), (Soap(precondition_frequency=100), 1e-6), (SOAP, 1e-5)],
)
def test_compiled_steps_are_those_of_calls_and_the_next_job_finds_their_code(factory, atol):
    """New eigenvectors magnify rounding errors: on one processor weights differ by 2.5e-6 after two, by 3e-8 before."""
    expected = learned(Step, "false", factory)
    with fresh_cache():
        for hits in (0, 1):
            counters.clear()
            assert_same(learned(Step, "true", factory), expected, factory, atol)
            assert counters["inductor"]["fxgraph_cache_hit"] == hits


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda log_w: -log_w.mean(), "expected an Estimate, found Tensor"),
        (lambda log_w: Estimate(-log_w.mean(0), log_w), r"expected a scalar tensor as loss, found shape \[3\]"),
        (lambda log_w: Estimate(-log_w.mean().item(), log_w), "expected a scalar tensor as loss, found "),
        (lambda log_w: Estimate(-log_w.mean(), log_w.mean(0)), r"expected log_w \[k, batch\].* of 3, found \[3\]"),
        (lambda log_w: Estimate(-log_w.mean(), log_w.T), r"expected log_w \[k, batch\].* of 3, found \[3, 2\]"),
        (lambda log_w: Estimate(-log_w.detach().mean(), log_w), "expected a loss with a gradient, found one without"),
    ],
)
def test_estimates_that_are_none_are_named(wrong, message):
    class Mine:
        def __call__(self, model, x, k):
            return wrong(model.log_weights(x, k))

    gradients = Gradients(HierarchicalModel([2], [[4]], mean_image=torch.rand(6)), Mine(), 2)
    with pytest.raises(UserError, match=f"objective=Mine: {message}"):
        gradients(torch.zeros(3, 6))
