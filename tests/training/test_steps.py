"""How steps are executed; that graphs on a GPU are the steps of calls is in tests/benchmarks/gpu/check.py."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from iwae_lab.models.compiling import Compiled
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.muon import Muon
from iwae_lab.training.optimizers.soap import Soap
from iwae_lab.training.steps import Steps

FACTORIES = [Adam(), Muon(), Soap(precondition_frequency=3)]
EACH_FACTORY = pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: type(factory).__name__)


class Recorded(Steps):
    """Graphs without a GPU: a captured graph of n steps is n calls."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, graphs=False)
        self.graphs = {}
        self.lengths: list[int] = []

    def _replay(self, batches, rates, steps_left):
        self.lengths.append(len(batches))
        for x, rate in zip(batches, rates, strict=True):
            self._update(x, float(rate))


def trained(factory, execution, batches, together, **settings):
    """Parameters after a step on each of `batches`, given `together` at a time; and the execution."""
    parameters = [torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))]

    def gradients(x):
        ((x @ parameters[0] + parameters[1]).square().mean() + parameters[0].sum()).backward()

    execute = execution(gradients, factory.make(parameters, 0.1), Compiled(gradients, "false"), **settings)
    rates = [0.1 / (1 + step) for step in range(len(batches))]
    for start in range(0, len(batches), together):
        group = slice(start, start + together)
        execute(batches[group], rates[group], len(batches) - start)
    return [parameter.detach() for parameter in parameters], execute


@EACH_FACTORY
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
        found, _ = trained(factory, Steps, batches, together, graphs=False)
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
    expected, _ = trained(factory, Steps, batches, together, graphs=False)
    found, execute = trained(factory, Recorded, batches, together)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    calls = min(count, Steps.WARM_UP) + (ragged and count > max(1, Steps.WARM_UP))
    assert sum(execute.lengths) == count - calls
    period = getattr(execute.optimizer, "period", None) or Steps.LONGEST
    assert max(execute.lengths, default=0) <= min(period, together, Steps.LONGEST)
