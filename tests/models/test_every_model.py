"""Whatever conf/model names, and a model of a user's own, works with all that takes a model."""

import shutil

import numpy as np
import pytest
import torch
from helpers.commands import records
from helpers.datasets import npz
from helpers.models import MINE, SHAPE, every_model, images, is_discrete, small
from helpers.no_copies import META, NoCopies
from helpers.objectives import ALL, FOR_DISCRETE, by_default, objective
from torch._dynamo.utils import counters

from iwae_lab.bounds import iwae_bound
from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.active_units import active_units
from iwae_lab.evaluation.ais import Annealing, bidirectional
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.evaluation.standard import standard_results
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.compiling import Compiled
from iwae_lab.runs.config import Node
from iwae_lab.training.figures.latents import latent_figures
from iwae_lab.training.figures.samples import model_figures
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.schedules import Constant


def noise_of_images(start: int):
    """Noise that an image has wherever its batch starts, of up to ten images."""

    def noise(q, level, shape):
        k, batch, units = shape
        table = q.noise((10, k, units), torch.Generator().manual_seed(level))
        return table[start : start + batch].transpose(0, 1)

    return noise


@every_model
@pytest.mark.parametrize("spec", by_default(ALL))
def test_every_objective_has_a_finite_gradient_in_every_parameter_or_refuses(name, spec):
    model, made = small(name), objective(spec)
    x = images(3).double()
    if is_discrete(model) and spec.split()[0] not in FOR_DISCRETE:
        with pytest.raises(UserError, match="expected continuous latents"):
            made(model, x, 4)
        return
    made(model, x, 4).backward(model)
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


@every_model
@pytest.mark.parametrize("gradient", ["total", "path", "score"])
@torch.no_grad()
def test_samples_weigh_what_their_densities_say_in_whatever_batch_they_are(name, gradient):
    model, x = small(name), images(7).double()
    whole = model.draw(x, 5, gradient, noise_of_images(0))
    torch.testing.assert_close(whole.log_p, model.log_joint(x, whole.z))
    torch.testing.assert_close(whole.log_q, model.log_posterior(x, whole.z))
    part = model.draw(x[2:4], 5, gradient, noise_of_images(2))
    torch.testing.assert_close(part.log_w, whole.log_w[:, 2:4])
    assert whole.log_w.std(0).min() > 1e-3, "samples differ"
    assert whole.log_w.mean(0).std() > 1e-2, "images differ"


@every_model
def test_images_may_be_integers(name):
    model, x = small(name), images(7)
    floats, integers = (model.draw(given, 3, "score", noise_of_images(0)) for given in (x.double(), x.to(torch.uint8)))
    assert torch.equal(floats.log_w, integers.log_w)


@every_model
def test_autocast_leaves_densities_in_the_precision_of_the_images(name):
    model = small(name).float()
    x = images(7).float()
    exact = model.draw(x, 5, "score", noise_of_images(0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.draw(x, 5, "score", noise_of_images(0))
    assert rounded.log_p.dtype == rounded.log_q.dtype == torch.float32
    assert not torch.equal(rounded.log_w, exact.log_w)
    torch.testing.assert_close(rounded.log_q.mean(), exact.log_q.mean(), rtol=0.05, atol=0.1)


@every_model
def test_it_is_measured_the_same_in_whatever_batches_and_with_its_inactive_units_taken_out(name):
    model, test = small(name), images(40)
    torch.testing.assert_close(likelihood(model, test, 120, rows=50).bound, likelihood(model, test, 120).bound)
    found = standard_results(model, test, images(10), images(10), 500).metrics()
    assert found["test/elbo"] < -found["test/nll"] < 0
    units = [q.mean.shape[-1] for q in model.posteriors(test.double(), 1)]
    assert [len(variances) for variances in found["test/unit_variances"]] == units
    assert found["test/nll_active_only"] == pytest.approx(found["test/nll"], abs=0.2)
    if name == "mine":
        assert found["test/active_units"] == [3] and units == [5]
        assert found["test/nll_active_only"] != found["test/nll"]


@every_model
def test_annealing_bounds_log_p_from_both_sides_or_refuses(name):
    model = small(name)
    if is_discrete(model):
        with pytest.raises(UserError, match="has discrete latents: annealing moves only continuous ones"):
            bidirectional(model, 2)
        return
    found = bidirectional(model, 20, Annealing(chains=4, temperatures=20))
    lower, upper = found.lower.bound, found.upper.bound
    usual = likelihood(model, found.images.byte(), 500)
    gap = upper - lower
    assert gap.mean() > -4 * gap.std() / len(gap) ** 0.5
    assert lower.mean() > usual.elbo.mean() + 0.1
    assert upper.mean() > usual.bound.mean() - 0.1


@every_model
def test_its_objective_is_one_graph_for_every_batch(name):
    model = small(name)
    made = objective("vimco" if is_discrete(model) else "iwae")
    torch.compiler.reset()
    counters.clear()
    traced = torch.compile(lambda x: made(model, x, 4).loss, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            traced(images(3).double())
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@every_model
def test_compiled_it_has_the_same_bound_and_gradient(name):
    found = []
    for mode in ("false", "true"):
        model = small(name)
        made = objective("vimco" if is_discrete(model) else "dreg")
        function = Compiled(lambda x, model=model, made=made: (made(model, x, 4).loss, made(model, x, 4).log_w), mode)
        torch.manual_seed(0)
        loss, log_w = function(images(3).double(), calls_left=1)
        loss.backward()
        assert (function.compiled is not None) == (mode == "true")
        found.append([loss.detach(), iwae_bound(log_w.detach()), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found)


@every_model
def test_a_training_step_needs_no_value_on_the_host(name):
    model = small(name)
    made = objective("vimco" if is_discrete(model) else "iwae")
    schedule = Constant(epochs=1, batch_size=5, learning_rate=1e-3)
    training = Training(model.float(), made, Adam(), schedule, k=3, compile="false").to(META)
    training.on_train_epoch_start()
    with NoCopies():
        training.add_gradients(torch.empty(5, 20, device=META))
    assert all(p.grad is not None and p.grad.device == META for p in model.parameters())


@every_model
def test_it_is_drawn(name):
    model = small(name)
    figures = model_figures(model, images(12), SHAPE, active_units(model, images(12)))
    assert figures.keys() == {"samples", "reconstructions", "log_variances"}
    assert figures["samples"].getcolors(maxcolors=3) is None, "more than three shades of grey"
    of_latents = latent_figures(model, images(12), SHAPE, active_units(model, images(12)))
    assert of_latents.keys() == (set() if is_discrete(model) else {"interpolations", "traversals"})


@pytest.mark.parametrize("height", range(1, 10))
def test_convolutions_fit_images_of_any_size(height):
    node = {"_target_": "iwae_lab.models.conv.ConvModel", "latents": 2, "channels": [2, 3]}
    model = Node.of(node, "model", LatentVariableModel).build(mean_image=torch.rand(height, 7))
    x = torch.zeros(2, height * 7)
    assert model.decoder[0](model.encoder[0](x).mean).logits.shape == x.shape


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"latents": 0}, "model.latents=0: expected an integer"),
        ({"channels": []}, r"model.channels=\[\]: expected"),
        ({"channels": [2, 0]}, r"model.channels=\[2, 0\]: expected"),
        ({"mean_image": torch.rand(20)}, r"model.mean_image=\[20\]: expected \[height, width\]"),
        ({"mean_image": 255 * torch.ones(SHAPE)}, "model.mean_image=255 to 255: expected pixels between 0 and 1"),
    ],
)
def test_convolutions_refuse(wrong, message):
    given = {"latents": 2, "channels": [2], "mean_image": torch.rand(SHAPE)} | wrong
    node = {"_target_": "iwae_lab.models.conv.ConvModel", "latents": given["latents"], "channels": given["channels"]}
    with pytest.raises(UserError, match=message):
        Node.of(node, "model", LatentVariableModel).build(mean_image=given["mean_image"])


@pytest.mark.parametrize("name", ["conv", "mine"])
def test_it_is_trained_and_evaluated_from_the_command_line(name, cli, tiny, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("name: mine\n_target_: mine.Mine\nunused: 4\n")
    small = np.random.RandomState(0).randint(0, 256, (130, *SHAPE), dtype=np.uint8)
    (tmp_path / "small.npz").write_bytes(npz(train=small[:90], valid=small[90:100], test=small[100:]))
    its_own = ["model.channels=[2,3]", "model.latents=4"] if name == "conv" else []
    general = [override for override in tiny if not override.startswith("model.")]
    done = cli(
        "train.py", "-cd", str(tmp_path / "conf"), *general, "dataset=npz", f"dataset.path={tmp_path / 'small.npz'}",
        f"model={name}", *its_own, "objective=dreg", "diagnostics=true", PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "runs")
    assert record["status"] == "finished" and record["model"] == name
    assert record["metrics"]["test/nll_active_only"] == pytest.approx(record["metrics"]["test/nll"], abs=1)
    if name == "mine":
        assert record["metrics"]["test/active_units"] == [3]
        assert record["metrics"]["test/nll_active_only"] != record["metrics"]["test/nll"]
    folder = tmp_path / "runs" / record["run_id"]
    assert {path.name for path in (folder / "figures").iterdir()} >= {"samples.png", "reconstructions.png"}
    again = cli("-m", "iwae_lab.evaluate", str(folder), "diagnostics=true", PYTHONPATH=str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert f"{record['metrics']['test/nll']:.2f}" in again.stdout
