"""Every objective of conf/objective with its variants, and the test of a gradient against what it claims."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from helpers.commands import ROOT
from helpers.oracle import (
    BINARY_X,
    LinearGaussian,
    X,
    compare,
    estimates,
    linear_gaussian,
    reference,
    sigmoid_belief,
    slopes,
)
from omegaconf import OmegaConf

from iwae_lab.console.errors import UserError
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork
from iwae_lab.objectives.base import Objective
from iwae_lab.objectives.coupling import COUPLINGS
from iwae_lab.runs.config import Node

FOR_BERNOULLI_ONLY = ["disarm", "disarm bound=elbo"]
FOUND = sorted({path.stem for path in (ROOT / "conf/objective").glob("*.yaml")} - {*FOR_BERNOULLI_ONLY})
VARIANTS = {
    "stl": ["bound=elbo"],
    "dreg_alpha": ["alpha=0.0"],
    "renyi": ["alpha=-1.0", "alpha=0.0", "alpha=1.0", "alpha=2.0"],
    "miwae": ["groups=2"],
    "piwae": ["groups=2"],
    "ciwae": ["beta=0.3", "learned=true"],
    "rws": ["inference=sleep", "inference=both"],
    "tvo": ["intervals=1", "betas=[0.0,0.2,0.6]"],
    "jvi": ["order=2"],
    "iwae_resampled": ["kept=2"],
    "dreg_resampled": ["kept=2"],
    "beta_vae": ["beta=0.4"],
    "vr_iwae": ["alpha=0.0", "alpha=1.0"],
    "ovis": ["gamma=1.0", "auxiliary=3"],
    "mlmc": ["levels=null"],
    "ustat": ["groups=2 permutations=null"],
    "jvi_dreg": ["order=2"],
    "uha": ["steps=0", "steps=2 persistence=0.0", "learned=false"],
    "annealed_wake_sleep": ["temperatures=2"],
}
ALL = FOUND + [f"{name} {variant}" for name, variants in VARIANTS.items() for variant in variants]
EVERY = ALL + FOR_BERNOULLI_ONLY
ANNEALED = ("uha",)  # its weights are those of chains, and its gradient is that of their target at any noise
SCORE_FUNCTIONS = ("ovis", "ovis auxiliary=2", "vargrad", *FOR_BERNOULLI_ONLY)
FOR_DISCRETE = ("rws", "tvo", "vimco", "reinforce", "ovis", "vargrad", "mlmc")


def objective(spec: str) -> Objective:
    name, *overrides = spec.split()
    node = OmegaConf.merge(OmegaConf.load(ROOT / f"conf/objective/{name}.yaml"), OmegaConf.from_dotlist(overrides))
    return Node.of(OmegaConf.to_container(node), "objective", Objective).build()


def architecture(spec: str) -> type[HierarchicalModel]:
    """One that the objective takes, built as any other."""
    return SigmoidBeliefNetwork if spec in FOR_BERNOULLI_ONLY else HierarchicalModel


def oracle(spec: str, layers: int) -> tuple[LatentVariableModel, torch.Tensor]:
    """A model that the objective takes, and a datum."""
    return (sigmoid_belief(layers), BINARY_X) if spec in FOR_BERNOULLI_ONLY else (linear_gaussian(layers), X)


def claims(spec: str, k: int) -> tuple[Objective, torch.Tensor]:
    """The objective and its log-weights on one datum, or a skip where it refuses so small a k."""
    made = objective(spec)
    try:
        return made, made(linear_gaussian(1), X, k).log_w.detach()
    except UserError as error:
        assert f"k={k}: expected" in str(error)
        pytest.skip(str(error))


def by_default(specs: Iterable[str], slow: Iterable[str] = ()) -> list[Any]:
    """For a parametrised test: each objective with its defaults; with other parameters, or listed, it is slow."""
    return [pytest.param(spec, marks=[pytest.mark.slow] if " " in spec or spec in slow else []) for spec in specs]


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def check_gradient(spec: str, layers: int, k: int, data: int = 30, noise: str = "iid") -> None:
    made, log_w = claims(spec, k)
    made.couple(noise)
    model = linear_gaussian(layers)
    claimed = {"generative": made.target, "inference": made.inference_target}
    claimed = {part: target for part, target in claimed.items() if target(log_w) is not None}
    if not claimed:
        pytest.skip("its gradient is no target's; it has a test of its own")
    if spec.startswith(ANNEALED):
        check_gradient_at_one_noise(made, model, k)
        return
    found = estimates(made, model, X, k, data)
    for part, target in claimed.items():
        expected = reference(
            target, lambda w: w.reshape(k, -1), model, X, log_w.numel(), data, noise=COUPLINGS[noise],
            in_one_call=made.compilable,
        )  # fmt: skip
        comparison = compare(getattr(found, part), getattr(expected, part))
        assert comparison.agrees, (part, comparison)


def check_gradient_at_one_noise(made: Objective, model: LinearGaussian, k: int) -> None:
    """In random directions of θ, of φ and of the parameters of the objective."""
    made.double()
    data = X * torch.linspace(-1, 1, 10, dtype=torch.float64).unsqueeze(-1)
    torch.manual_seed(0)
    made(model, data, k).backward(model)
    own = [p for p in made.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(1)
    for parameters in (model.generative_parameters(), model.inference_parameters(), own):
        for _ in range(3):
            moves = [(p, torch.randn(p.shape, generator=generator, dtype=torch.float64)) for p in parameters]
            expected = sum((p.grad * direction).sum() for p, direction in moves)
            torch.testing.assert_close(-torch.as_tensor(expected).double(), slopes(made, model, data, k, moves))
