"""Compiled objectives are the eager ones, and compiling is never in the way."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.commands import records
from helpers.objectives import EVERY, by_default, objective, oracle
from helpers.oracle import X, linear_gaussian
from torch._dynamo.utils import counters

from iwae_lab.console.errors import UserError
from iwae_lab.models import compiling
from iwae_lab.models.compiling import Compiled
from iwae_lab.models.distributions import Bernoulli
from iwae_lab.objectives.coupling import COUPLINGS
from iwae_lab.runs.run import run
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.step import Step

LONG_TO_TRACE = ("annealed_wake_sleep", "gdreg", "jvi", "jvi_dreg", "mlmc", "sumo", "uha")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@needs_compiler
@pytest.mark.parametrize("spec", by_default(EVERY, slow={*EVERY} - {"dreg", "iwae"}))
def test_compiled_it_gives_the_same_loss_sums_and_gradients(spec):
    if not objective(spec).compilable:
        pytest.skip("it is never compiled")
    for noise in COUPLINGS if spec == "iwae_resampled" else ["iid"]:
        check_compiled(spec, noise)


def check_compiled(spec, noise):
    (model, x), made = oracle(spec, 1 if spec == "iwae" else 2), objective(spec)
    made.couple(noise)
    x = x.expand(3, -1)
    eager = Gradients(model, made, 4)
    found = []
    for gradients in (eager, eager.compiled(x)):
        torch.manual_seed(0)
        eager.start_sums(x.device)
        loss = gradients(x)
        of_parameters = [p.grad.clone() for p in [*model.parameters(), *made.parameters()] if p.grad is not None]
        found.append([loss, eager.sums.clone(), *of_parameters])
        model.zero_grad()
        made.zero_grad()
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)  # sums are of fp32


@pytest.mark.parametrize("ragged", [False, True], ids=["", "every other one ragged"])
@pytest.mark.parametrize(
    ("eager", "compiled", "steps", "kept"),
    [(1.0, 0.5, 1000, True), (1.0, 1.1, 1000, False), (0.01, 0.005, 1000, False)],
    ids=["faster", "slower", "too few steps left"],
)
def test_auto_compiles_where_the_steps_left_repay_it_and_keeps_what_is_faster(
    eager, compiled, steps, kept, ragged, monkeypatch
):
    now = 0.0

    def taking(seconds):
        def square(x):
            nonlocal now
            now += seconds
            return x.square()

        return square

    monkeypatch.setattr(torch, "compile", lambda function, **_: taking(compiled))
    function = Compiled(taking(eager), clock=lambda: now)
    tried = False
    for step in range(100):
        function(X.expand(2, -1) if ragged and step % 2 else X, calls_left=steps - step)
        tried |= function.choice.compile
    assert function.choice.compile == kept
    assert tried == (steps * eager > 600)


@pytest.mark.slow
@needs_compiler
def test_neither_a_ragged_batch_nor_validation_is_compiled(tiny, composed, capfd, monkeypatch):
    """The last batch is smaller; the run validates after each of its two epochs."""
    steps, functions = [], []
    made = Step.compiled
    monkeypatch.setattr(Step, "compiled", lambda step, x: steps.append(step) or made(step, x))
    monkeypatch.setattr(compiling, "compiled", lambda f, real=compiling.compiled: functions.append(f) or real(f))
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        record = run(composed(*tiny, "compile=true", "schedule.batch_size=96"))
    assert record.status == "finished" and "compile:" not in capfd.readouterr().err
    assert len(steps) == 1
    assert counters["stats"]["unique_graphs"] == len(functions) > 0


@pytest.mark.parametrize("layers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", by_default(EVERY, slow=LONG_TO_TRACE))
def test_what_counts_as_compilable_is_one_graph_for_every_batch_and_changes_no_buffer(spec, layers):
    """Of another noise and another global random state each."""
    (model, datum), made = oracle(spec, layers), objective(spec)
    torch.compiler.reset()
    counters.clear()
    buffers, attributes = [buffer.clone() for buffer in made.buffers()], made.attributes()
    traced = torch.compile(lambda x: made(model, x, 4).loss, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=made.compilable):
        for _ in range(3):
            traced(datum.expand(3, -1))
    unchanged = all(torch.equal(*pair) for pair in zip(buffers, made.buffers(), strict=True))
    unchanged &= made.attributes() == attributes
    could_be = counters["stats"]["unique_graphs"] == 1 and unchanged
    assert made.compilable == could_be, f"expected compilable = {could_be}"


def test_a_users_error_is_no_reason_to_continue_eagerly(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    refuses = Compiled(lambda x: objective("tvo")(linear_gaussian(1), x, 1), "true")
    with pytest.raises(UserError, match=r"^k=1: "):
        refuses(X, calls_left=1)
    assert refuses.choice.compile


def test_what_cannot_be_compiled_stays_eager_and_one_line_says_so(monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("\nno compiler\nand more")

    caplog.set_level("INFO", "iwae_lab")
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    for _ in range(2):
        square = Compiled(torch.square, "true")
        for _ in range(2):
            assert square(X, calls_left=2).equal(X.square())
    assert caplog.messages == ["compile: not possible here, continuing without (no compiler)"]


@pytest.mark.slow
def test_without_a_compiler_the_run_continues(cli, tiny, tmp_path):
    done = cli(
        "train.py",
        *tiny,
        "schedule.epochs=1",
        "compile=true",
        PATH=str(tmp_path),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("compile: not possible here, continuing without") == 1
    assert "Traceback" not in done.stderr
    (record,) = records(Path(tmp_path) / "runs")
    assert record["status"] == "finished"


@needs_compiler
@pytest.mark.parametrize("units", [784, pytest.param(50, marks=pytest.mark.slow)], ids=["in groups", "not in groups"])
def test_compiled_pixels_have_the_same_log_probability_and_gradient(units):
    h = torch.linspace(-5, 5, 7 * units, dtype=torch.float64).view(7, units).requires_grad_()
    x = (torch.arange(units) % 2).double()
    function = Compiled(lambda x, h: Bernoulli(15 * torch.tanh(h)).log_prob(x), "true")
    eager, compiled = function.eager(x, h), function(x, h, calls_left=1)
    assert function.compiled is not None
    torch.testing.assert_close(compiled, eager)
    weights = torch.arange(7, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(found @ weights, h) for found in (compiled, eager)))
