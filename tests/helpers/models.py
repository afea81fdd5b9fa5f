"""Every model of conf/model, small, and one of a user's own."""

from types import SimpleNamespace

import pytest
import torch
from helpers.commands import ROOT
from omegaconf import OmegaConf

from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Bernoulli
from iwae_lab.runs.config import Node

CONF = ROOT / "conf/model"
FOUND = sorted(path.stem for path in CONF.glob("*.yaml"))
SMALL = {
    "one_layer": ["latents=[4]", "hidden=[[8]]"],
    "two_layer": ["latents=[4,3]", "hidden=[[8],[6]]"],
    "sigmoid_belief": ["latents=[4]"],
    "sigmoid_belief_two": ["latents=[4,3]"],
    "conv": ["latents=4", "channels=[2,3]"],
}
"""Of those that tests would wait for as they are."""
MINE = """
import torch
from torch import nn

from iwae_lab.models.distributions import Bernoulli, Gaussian, StandardNormal
from iwae_lab.models.base import LatentVariableModel


class Encoder(nn.Module):
    def __init__(self, pixels, used, unused):
        super().__init__()
        self.linear = nn.Linear(pixels, 2 * used)
        self.unused = unused

    def forward(self, x):
        return Gaussian(*(nn.functional.pad(half, (0, self.unused)) for half in self.linear(x).chunk(2, dim=1)))


class Decoder(nn.Module):
    def __init__(self, pixels, used):
        super().__init__()
        self.linear = nn.Linear(used, pixels)

    def forward(self, z):
        return Bernoulli(self.linear(z[:, : self.linear.in_features]))


class Mine(LatentVariableModel):
    "Of its units, the last `unused` are inactive."

    def __init__(self, used: int = 3, unused: int = 2, *, mean_image):
        super().__init__()
        self.encoder = nn.ModuleList([Encoder(mean_image.numel(), used, unused)])
        self.decoder = nn.ModuleList([Decoder(mean_image.numel(), used)])
        self.register_buffer("zeros", torch.zeros(used + unused))

    def prior(self):
        return StandardNormal(self.zeros)
"""
SHAPE = (5, 4)
every_model = pytest.mark.parametrize("name", [*FOUND, "mine"])


def small(name: str) -> LatentVariableModel:
    """As it is initialised, in double precision."""
    torch.manual_seed(0)
    mean_image = torch.rand(SHAPE)
    if name == "mine":
        module = SimpleNamespace()
        exec(MINE, module.__dict__)
        model = module.Mine(mean_image=mean_image)
    else:
        node = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), OmegaConf.from_dotlist(SMALL.get(name, [])))
        found = Node.of(OmegaConf.to_container(node), "model", LatentVariableModel)
        model = found.build(mean_image=mean_image)
    return model.double()


def images(n: int) -> torch.Tensor:
    return (torch.rand(n, 20, generator=torch.Generator().manual_seed(1)) < 0.4).byte()


def is_discrete(model: LatentVariableModel) -> bool:
    return any(isinstance(q, Bernoulli) for q in model.posteriors(images(1).double(), 1))
