"""Each shipped map, against a module with the tensor names and the arithmetic of the repository that it names."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import yaml
from helpers.commands import ROOT
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from iwae_lab.evaluation.likelihood import SEED, likelihood
from iwae_lab.evaluation.noise import image_noise
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.runs.config import CONF
from iwae_lab.runs.weights import MAPS, load_mapped, read_map, read_tensors

PIXELS = 784
Layer = Callable[[Tensor], Any]  # of the encoder, or of the decoder but for the first: h -> μ, σ; that: h -> p(x = 1)


def tanh(*widths: int) -> list[nn.Module]:
    return [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]


def pixels(*widths: int) -> nn.Sequential:
    return nn.Sequential(*tanh(*widths), nn.Linear(widths[-1], PIXELS), nn.Sigmoid())


class XqdingBlock(nn.Module):
    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(*tanh(n_in, hidden, hidden))
        self.fc_mu, self.fc_logsigma = nn.Linear(hidden, n_out), nn.Linear(hidden, n_out)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.transform(h)
        return self.fc_mu(h), self.fc_logsigma(h).exp()


class Xqding(nn.Module):
    def __init__(self, *latents: int) -> None:
        super().__init__()
        self.encoder_h1 = XqdingBlock(PIXELS, 200, latents[0])
        self.decoder_x = pixels(latents[0], 200, 200)
        self.upper = len(latents) > 1
        if self.upper:
            self.encoder_h2, self.decoder_h1 = XqdingBlock(100, 100, 50), XqdingBlock(50, 100, 100)

    def parts(self) -> tuple[list[Layer], list[Layer]]:
        upper = ([self.encoder_h2], [self.decoder_h1]) if self.upper else ([], [])
        return [self.encoder_h1, *upper[0]], [self.decoder_x, *upper[1]]


class XqdingAnnealed(nn.Module):
    def __init__(self, *latents: int) -> None:
        super().__init__()
        self.encoder, self.decoder = XqdingBlock(PIXELS, 200, latents[0]), nn.Module()
        self.decoder.transform = pixels(latents[0], 200, 200)

    def parts(self) -> tuple[list[Layer], list[Layer]]:
        return [self.encoder], [self.decoder.transform]

    def saved(self) -> dict[str, Any]:
        parts = {f"{name}_state_dict": part.state_dict() for name, part in self.named_children()}
        return parts | {"optimizer_state_dict": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}}}


class Numbered(nn.Module):
    """Layers in a row; where a name ends in *, two heads whose names begin with it."""

    def __init__(self, names: str, heads: tuple[str, str], *latents: int) -> None:
        super().__init__()
        upper = [(100, 100, 50), (50, 100, 100)] if len(latents) > 1 else []
        networks = [(PIXELS, 200, latents[0]), *upper, (latents[0], 200, PIXELS)]
        sizes = [pair for n_in, hidden, n_out in networks for pair in pairwise((n_in, hidden, hidden, n_out))]
        self.steps = []
        for name, size in zip(names.split(), sizes, strict=True):
            self.steps.append([name[:-1] + head for head in heads] if name.endswith("*") else [name])
            for layer in self.steps[-1]:
                self.add_module(layer, nn.Linear(*size))

    def through(self, steps: list[list[str]]) -> Layer:
        def call(h: Tensor) -> Any:
            for layers in steps[:-1]:
                h = torch.tanh(self.get_submodule(layers[0])(h))
            last = [self.get_submodule(layer)(h) for layer in steps[-1]]
            return torch.sigmoid(last[0]) if len(last) == 1 else (last[0], last[1].exp())

        return call

    def parts(self) -> tuple[list[Layer], list[Layer]]:
        *gaussians, image = (self.through(self.steps[i : i + 3]) for i in range(0, len(self.steps), 3))
        encoder = gaussians[: (len(gaussians) + 1) // 2]
        return encoder, [image, *gaussians[len(encoder) :]]


def nicolaefilat(*latents: int) -> Numbered:
    names = "fc1 fc2 fc3* fc4 fc5 fc6" if len(latents) == 1 else "fc1 fc2 fc3* fc4 fc5 fc6* fc7 fc8 fc9* fc10 fc11 fc12"
    return Numbered(names, ("_mu", "_sigma"), *latents)


def arnegebert(*latents: int) -> Numbered:
    names = "fc1 fc2 fc3* fc4 fc5 fc6" if len(latents) == 1 else "fc1 fc2 fc3* fc4 fc5 fc6* fc7 fc8 fc8* fc9 fc10 fc11"
    return Numbered(names, ("1", "2"), *latents)


class Blocks(nn.Module):
    """A tanh network, two heads beside it and log σ from the second: by the names of all three for each Gaussian."""

    def __init__(self, names: list[tuple[str, str, str]], image: str, *latents: int, flatten: bool = False) -> None:
        super().__init__()
        hidden = (200, 100, 100)
        sizes = [PIXELS, *latents, *latents[:1]] if len(latents) > 1 else [PIXELS, *latents]
        for level, (body, mean, spread) in enumerate(names):
            width, n_out = hidden[level], sizes[level + 1]
            first = [nn.Flatten()] if flatten and level == 0 else []
            self.add_module(body, nn.Sequential(*first, *tanh(sizes[level], width, width)))
            self.add_module(mean, nn.Linear(width, n_out))
            self.add_module(spread, nn.Linear(width, n_out))
        self.add_module(image, pixels(latents[0], 200, 200))
        self.names, self.image = names, image

    def gaussian(self, body: str, mean: str, spread: str) -> Layer:
        def call(h: Tensor) -> tuple[Tensor, Tensor]:
            h = self.get_submodule(body)(h)
            return self.get_submodule(mean)(h), self.get_submodule(spread)(h).exp()

        return call

    def parts(self) -> tuple[list[Layer], list[Layer]]:
        *encoder, prior = (self.gaussian(*names) for names in self.names)
        return encoder, [self.get_submodule(self.image), prior]


def hudsonchen_two(*latents: int) -> Blocks:
    names = [("q_fc_1", "q_fc_mean_h1", "q_fc_logvar_h1"), ("q_fc_2", "q_fc_mean_h2", "q_fc_logvar_h2")]
    return Blocks([*names, ("p_fc_1", "p_fc_mean", "p_fc_logvar")], "p_fc_2", *latents)


def hudsonchen_one(*latents: int) -> Numbered:
    return Numbered("q_fc_1 q_fc_2 q_fc_* p_fc_1 p_fc_2 p_fc_3", ("mean", "logvar"), *latents)


def jakubreha(*latents: int) -> Blocks:
    names = [(name, f"{name}_mu", f"{name}_log_std") for name in ("q1", "q2", "p1")]
    return Blocks(names, "p0", *latents, flatten=True)


class Sampler(nn.Module):
    def __init__(self, *widths: int, gaussian: bool = True) -> None:
        super().__init__()
        self.base_net = nn.Sequential(nn.Identity(), *tanh(*widths[:-1]))
        self.mean_net = nn.Sequential(self.base_net, nn.Linear(*widths[-2:]))
        self.gaussian = gaussian
        if gaussian:
            self.logvar_net = nn.Sequential(self.base_net, nn.Linear(*widths[-2:]))
        else:
            self.mean_net.append(nn.Sigmoid())
            self.mean_net[-1].bias = nn.Parameter(torch.ones(PIXELS))

    def forward(self, h: Tensor) -> Any:
        mean = self.mean_net(h)
        return (mean, torch.exp(self.logvar_net(h) / 2)) if self.gaussian else mean


class Martinigoyanes(nn.Module):
    def __init__(self, *latents: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        image = Sampler(latents[0], 200, 200, PIXELS, gaussian=False)
        upper = [[Sampler(100, 100, 100, 50)], [Sampler(50, 100, 100, 100)]] if len(latents) > 1 else [[], []]
        self.encoder.layers = nn.Sequential(Sampler(PIXELS, 200, 200, latents[0]), *upper[0])
        self.decoder.layers = nn.Sequential(*upper[1], image)

    def parts(self) -> tuple[list[Layer], list[Layer]]:
        return list(self.encoder.layers), list(self.decoder.layers)[::-1]


class IkemuraKei(nn.Module):
    def __init__(self, *latents: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.network = nn.Sequential(*tanh(PIXELS, 200, 200))
        self.encoder.fullyconnectedLayer_mean = nn.Linear(200, *latents)
        self.encoder.fullyconnectedLayer_logvar = nn.Linear(200, *latents)
        self.decoder.network = nn.Sequential(*tanh(*latents, 200, 200))
        self.decoder.output_layer = nn.Linear(200, PIXELS)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder.network(x)
        logvar = self.encoder.fullyconnectedLayer_logvar(h)
        return self.encoder.fullyconnectedLayer_mean(h), torch.exp(0.5 * logvar)

    def parts(self) -> tuple[list[Layer], list[Layer]]:
        return [self.encode], [lambda h: torch.sigmoid(self.decoder.output_layer(self.decoder.network(h)))]


class OneHead(nn.Module):
    """The last layer of the encoder gives means and, after them, logarithms of σ or of variances."""

    def __init__(self, log_sigma_of: Callable[[Tensor], Tensor], *latents: int) -> None:
        super().__init__()
        self.log_sigma_of = log_sigma_of
        self.encoder = nn.Sequential(*tanh(PIXELS, 200, 200), nn.Linear(200, 2 * latents[0]))
        self.decoder = nn.Sequential(*tanh(*latents, 200, 200), nn.Linear(200, PIXELS))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encoder(x).chunk(2, dim=1)
        return mean, self.log_sigma_of(raw).exp()

    def parts(self) -> tuple[list[Layer], list[Layer]]:
        return [self.encode], [lambda h: torch.sigmoid(self.decoder(h))]


def yuyang_shi(*latents: int) -> OneHead:
    model = OneHead(lambda raw: raw, *latents)
    model.register_buffer("prior_mu", torch.zeros(latents))
    model.register_buffer("prior_sig", torch.ones(latents))
    return model


STRANGERS: dict[str, Callable[..., Any]] = {
    "arnegebert_one_layer": arnegebert,
    "arnegebert_two_layer": arnegebert,
    "hudsonchen_one_layer": hudsonchen_one,
    "hudsonchen_two_layer": hudsonchen_two,
    "ikemura_kei_one_layer": IkemuraKei,
    "jakubreha_two_layer": jakubreha,
    "martinigoyanes_one_layer": Martinigoyanes,
    "martinigoyanes_two_layer": Martinigoyanes,
    "nicolaefilat_one_layer": nicolaefilat,
    "nicolaefilat_two_layer": nicolaefilat,
    "xqding_annealed_one_layer": XqdingAnnealed,
    "xqding_one_layer": Xqding,
    "xqding_two_layer": Xqding,
    "yass_ml_one_layer": lambda *latents: OneHead(lambda raw: 0.5 * raw, *latents),
    "yuyang_shi_one_layer": yuyang_shi,
}


@torch.no_grad()
def bound_of(stranger: Any, model: HierarchicalModel, x: Tensor, k: int) -> Tensor:
    """L̂_k from the noise that `likelihood` draws."""
    encoder, decoder = stranger.parts()
    noise = image_noise(SEED, range(len(x)), x.device)
    family = model.encoder[0](x)
    h, log_w, samples = x, torch.zeros(k, len(x), dtype=x.dtype), []
    for level, q in enumerate(encoder):
        mean, sigma = (parameter.expand(k, len(x), -1) for parameter in _by_row(q, h))
        h = mean + sigma * noise(family, level, mean.shape)
        log_w -= Normal(mean, sigma).log_prob(h).sum(-1)
        samples.append(h)
    log_w += Normal(0, 1).log_prob(h).sum(-1)
    for (below, above), p in zip(pairwise(samples), decoder[1:], strict=True):
        log_w += Normal(*_by_row(p, above)).log_prob(below).sum(-1)
    log_w += Bernoulli(decoder[0](samples[0])).log_prob(x).sum(-1)
    return log_w.logsumexp(0) - torch.log(torch.tensor(k))


def _by_row(layer: Layer, h: Tensor) -> list[Tensor]:
    """A Gaussian layer of theirs on h [rows, n] or [k, rows, n]."""
    return [parameter.view(*h.shape[:-1], -1) for parameter in layer(h.flatten(0, -2))]


@pytest.mark.parametrize("name", sorted(path.stem for path in MAPS.glob("*.yaml")))
def test_a_map_gives_the_bounds_of_its_repository(name, tmp_path):
    option = re.search(r"model=(\w+)", (MAPS / f"{name}.yaml").read_text())[1]
    node = yaml.safe_load((CONF / "model" / f"{option}.yaml").read_text())
    torch.manual_seed(2)
    stranger = STRANGERS[name](*node["latents"]).double()
    torch.save(stranger.saved() if hasattr(stranger, "saved") else stranger.state_dict(), tmp_path / "theirs.pt")
    model = HierarchicalModel(node["latents"], node["hidden"], mean_image=torch.rand(PIXELS)).double()
    model = load_mapped(model, read_tensors(tmp_path / "theirs.pt"), read_map(name))
    x = (torch.rand(4, PIXELS) < 0.4).byte()
    bound = bound_of(stranger, model, x.double(), 20)
    torch.testing.assert_close(likelihood(model, x, 20).bound, bound, rtol=1e-9, atol=0)


def test_the_readme_lists_every_map():
    readme = (ROOT / "iwae_lab" / "evaluation" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)_…` \|(.*?)\|(.*?)\|", readme, re.MULTILINE)
    listed = {f"{name}_one_layer" for name, one, _ in rows if "✓" in one}
    listed |= {f"{name}_two_layer" for name, _, two in rows if "✓" in two}
    assert listed == {path.stem for path in MAPS.glob("*.yaml")}
