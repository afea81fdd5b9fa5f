"""Mistakes in a user's model are told by name, before training and in the densities themselves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.commands import records
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from iwae_lab.console.errors import UserError
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.check import check_model
from iwae_lab.models.distributions import Bernoulli, Gaussian, StandardNormal
from iwae_lab.objectives.gdreg import GDReG
from iwae_lab.objectives.iwae import IWAE

PIXELS, UNITS = 6, 4


class Layer(nn.Module):
    """A linear layer whose output `give` makes a distribution of."""

    def __init__(self, below: int, above: int, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.give = nn.Linear(below, above), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.linear(x))


def gaussian(h: Tensor) -> Gaussian:
    return Gaussian(*h.chunk(2, dim=1))


class Mine(LatentVariableModel):
    """One layer; parts are replaced by `wrong`."""

    def __init__(self, **wrong: Any) -> None:
        super().__init__()
        parts = {
            "encoder": nn.ModuleList([Layer(PIXELS, 2 * UNITS, gaussian)]),
            "decoder": nn.ModuleList([Layer(UNITS, PIXELS, Bernoulli)]),
            "given": StandardNormal(torch.zeros(UNITS)),
        }
        for name, part in (parts | wrong).items():
            setattr(self, name, part)

    def prior(self) -> Any:
        return self.given


def one(*layer: Any) -> nn.ModuleList:
    return nn.ModuleList([Layer(*layer)])


X = torch.eye(3, PIXELS)
KINDS = "expected a Gaussian or a Bernoulli, as in iwae_lab.models.distributions"


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


UP, DOWN = Layer(PIXELS, 2 * UNITS, gaussian), Layer(UNITS, PIXELS, Bernoulli)
WRONG = {
    "one width for all units": (
        {"encoder": one(PIXELS, 2 * UNITS, lambda h: Gaussian(h[:, :UNITS], h[:, UNITS : UNITS + 1]))},
        f"encoder[0]: expected log_std of shape [3, {UNITS}], found [3, 1]",
    ),
    "parameters without rows": (
        {"encoder": one(PIXELS, 2 * UNITS, lambda h: Gaussian(h[:, :UNITS], torch.zeros(UNITS)))},
        f"encoder[0]: expected log_std of shape [3, {UNITS}], found [{UNITS}]",
    ),
    "no units": (
        {"encoder": one(PIXELS, 1, lambda h: Gaussian(h[:, :0], h[:, :0]))},
        "encoder[0]: expected mean of shape [3, units], found [3, 0]",
    ),
    "nothing in it": (
        {"decoder": one(UNITS, PIXELS, lambda h: Bernoulli(None))},
        f"decoder[0]: expected logits of shape [3, {PIXELS}], found NoneType",
    ),
    "a tuple": (
        {"encoder": one(PIXELS, 2 * UNITS, lambda h: h.chunk(2, dim=1))},
        f"encoder[0]: {KINDS}, found a tuple",
    ),
    "torch's distribution": (
        {"encoder": one(PIXELS, UNITS, lambda h: Normal(h, 1.0))},
        f"encoder[0]: {KINDS}, found a Normal",
    ),
    "a tensor": (
        {"decoder": one(UNITS, PIXELS, lambda h: h)},
        "decoder[0]: expected a Bernoulli, as in iwae_lab.models.distributions, found a Tensor",
    ),
    "densities of pixels": (
        {"decoder": one(UNITS, 2 * PIXELS, gaussian)},
        "decoder[0]: expected a Bernoulli, as in iwae_lab.models.distributions, found a Gaussian",
    ),
    "one pixel": (
        {"decoder": one(UNITS, 1, Bernoulli)},
        f"decoder[0]: expected logits of shape [3, {PIXELS}], found [3, 1]",
    ),
    "a wide prior": (
        {"given": StandardNormal(torch.zeros(UNITS + 1))},
        f"prior(): expected zeros of shape [{UNITS}], found [{UNITS + 1}]",
    ),
    "one width in the prior": (
        {"given": Gaussian(torch.zeros(UNITS), torch.zeros(1))},
        f"prior(): expected log_std of shape [{UNITS}], found [1]",
    ),
    "torch's prior": (
        {"given": Independent(Normal(torch.zeros(UNITS), 1.0), 1)},
        "prior(): expected a Gaussian or a StandardNormal, as in iwae_lab.models.distributions, found a Independent",
    ),
    "a binary prior of real latents": (
        {"given": Bernoulli(torch.zeros(UNITS))},
        "prior(): expected a Gaussian or a StandardNormal, as in iwae_lab.models.distributions, found a Bernoulli",
    ),
    "a normal prior of binary latents": (
        {"encoder": one(PIXELS, UNITS, Bernoulli)},
        "prior(): expected a Bernoulli, as in iwae_lab.models.distributions, found a StandardNormal",
    ),
    "binary latents to one side alone": (
        {
            "encoder": nn.ModuleList([UP, Layer(UNITS, 2 * UNITS, gaussian)]),
            "decoder": nn.ModuleList([DOWN, Layer(UNITS, UNITS, Bernoulli)]),
        },
        "decoder[1]: expected a Gaussian, as in iwae_lab.models.distributions, found a Bernoulli",
    ),
    "a list": ({"encoder": [UP]}, "expected an nn.ModuleList as encoder, found list"),
    "a layer": ({"decoder": DOWN}, "expected an nn.ModuleList as decoder, found Layer"),
    "no layers": (
        {"encoder": nn.ModuleList(), "decoder": nn.ModuleList()},
        "expected encoder and decoder of as many layers, one or more, found 0 and 0",
    ),
    "two and one": (
        {"encoder": nn.ModuleList([UP, Layer(UNITS, 2 * UNITS, gaussian)])},
        "expected encoder and decoder of as many layers, one or more, found 2 and 1",
    ),
    "batch normalization": (
        {"decoder": nn.ModuleList([nn.Sequential(nn.BatchNorm1d(UNITS), DOWN)])},
        "expected log w to be a function of an image and its noise, found BatchNorm1d at decoder.0.0",
    ),
    "dropout": (
        {"encoder": nn.ModuleList([nn.Sequential(nn.Dropout(0.5), UP)])},
        "expected log w to be a function of an image and its noise, found Dropout at encoder.0.0",
    ),
    "rows that see each other": (
        {"encoder": nn.ModuleList([nn.Sequential(Applied(lambda h: h - h.mean(0)), UP)])},
        "expected log w to be a function of an image and its noise, found ",
    ),
    "a function with dropout": (
        {"decoder": nn.ModuleList([nn.Sequential(Applied(nn.functional.dropout), DOWN)])},
        "expected log w to be a function of an image and its noise, found ",
    ),
    "images in place": (
        {"encoder": nn.ModuleList([nn.Sequential(Applied(lambda h: h.mul_(2)), UP)])},
        "encoder[0]: expected it to leave its input as it is, found other values in it",
    ),
    "latents in place": (
        {"decoder": nn.ModuleList([nn.Sequential(Applied(lambda h: h.mul_(2)), DOWN)])},
        "decoder[0]: expected it to leave its input as it is, found other values in it",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_go_together_is_named(wrong: str) -> None:
    parts, message = WRONG[wrong]
    with pytest.raises(UserError) as raised:
        check_model(Mine(**parts), X.clone())
    assert str(raised.value).startswith(f"model=Mine: {message}")


def test_what_goes_together_is_left_as_it_is() -> None:
    model = Mine()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    check_model(model, X)
    check_model(model, X.byte())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("wrong", ["one width for all units", "one pixel", "a wide prior", "one width in the prior"])
def test_densities_refuse_a_parameter_that_would_count_once_for_all_units(wrong: str) -> None:
    model = Mine(**WRONG[wrong][0])
    with pytest.raises(UserError, match=r"with parameters .*: expected \d units in each"):
        IWAE()(model, X, 5)
    with pytest.raises(UserError, match=r"with parameters .*: expected \d units in each"):
        model.draw(X, 5, "score")


@pytest.mark.parametrize("gradient", ["pth", "Total", "", None])
def test_a_derivative_that_there_is_none_of_is_refused(gradient: Any) -> None:
    with pytest.raises(UserError, match=r"gradient=.*: expected one of total, path, score"):
        Mine().draw(X, 5, gradient)


def test_gdreg_refuses_a_discrete_layer_wherever_it_is() -> None:
    encoder = nn.ModuleList([UP, Layer(UNITS, UNITS, Bernoulli)])
    decoder = nn.ModuleList([DOWN, Layer(UNITS, 2 * UNITS, gaussian)])
    model = Mine(encoder=encoder, decoder=decoder, given=Bernoulli(torch.zeros(UNITS)))
    check_model(model, X)
    with pytest.raises(UserError, match="expected continuous latents"):
        GDReG()(model, X, 3)


@pytest.mark.parametrize("gradient", ["total", "score"])
def test_only_path_derivatives_are_scaled(gradient: Any) -> None:
    with pytest.raises(UserError, match="expected a draw with gradient="):
        Mine().draw(X, 5, gradient).scale_inference_gradient(torch.ones(5, 3))


def test_it_is_told_before_training(cli: Any, tiny: list[str], tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom iwae_lab.models.distributions import StandardNormal\n"
        "from iwae_lab.models.hierarchical import HierarchicalModel\n"
        "class Wide(HierarchicalModel):\n    def prior(self): return StandardNormal(torch.zeros(5))\n"
    )
    done = cli("train.py", *tiny, "model._target_=mine.Wide", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "error: model=Wide: prior(): expected zeros of shape [4], found [5]\n"
    assert not (tmp_path / "runs").exists() or not records(tmp_path / "runs")
