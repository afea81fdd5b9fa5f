"""Weights written, read again, and read from other people's files."""

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from iwae_lab.console.errors import UserError
from iwae_lab.evaluation.likelihood import SEED, likelihood
from iwae_lab.evaluation.noise import image_noise
from iwae_lab.export import export
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork
from iwae_lab.runs.run import run
from iwae_lab.runs.weights import SCALES, load_mapped, load_named, read_map, read_tensors, write_tensors

PIXELS = 12
X = (torch.rand(5, PIXELS, generator=torch.Generator().manual_seed(3)) < 0.4).byte()


def make(seed: int, architecture=HierarchicalModel):
    torch.manual_seed(seed)
    return architecture([4, 3], [[6, 5], [7, 6]], mean_image=torch.rand(PIXELS))


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("architecture", [HierarchicalModel, SigmoidBeliefNetwork])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".ckpt"])
def test_read_again_every_format_gives_the_same_bounds_to_the_last_digit(architecture, suffix, tmp_path):
    trained = make(0, architecture)
    tensors = read_tensors(save(tmp_path / f"weights{suffix}", trained.state_dict()))
    again = load_named(make(1, architecture), tensors)
    assert torch.equal(likelihood(again, X, 50).bound, likelihood(trained, X, 50).bound)
    assert not torch.equal(likelihood(make(1, architecture), X, 50).bound, likelihood(trained, X, 50).bound)


class Block(nn.Module):
    def __init__(self, n_in: int, widths: tuple[int, int], n_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_in, widths[0]), nn.Tanh(), nn.Linear(widths[0], widths[1]), nn.Tanh())
        self.mu, self.spread = nn.Linear(widths[1], n_out), nn.Linear(widths[1], n_out)


SIGMA = {
    "log_sigma": torch.exp, "sigma": lambda raw: raw, "log_variance": lambda raw: (raw / 2).exp(),
    "variance": torch.sqrt, "softplus": nn.functional.softplus,
}  # fmt: skip


class Stranger(nn.Module):
    """Another implementation of the architecture, with names, scale and arithmetic of its own."""

    def __init__(self, scale: str) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.scale = scale
        self.q1, self.q2, self.p1 = Block(PIXELS, (6, 5), 4), Block(4, (7, 6), 3), Block(3, (6, 7), 4)
        self.out = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, PIXELS))
        self.double()
        for block in (self.q1, self.q2, self.p1):
            nn.init.constant_(block.spread.bias, 0.7)
            block.spread.weight.data.mul_(0.1)

    def normal(self, block: Block, h: Tensor) -> Normal:
        h = block.net(h)
        return Normal(block.mu(h), SIGMA[self.scale](block.spread(h)))

    @torch.no_grad()
    def bound(self, x: Tensor, k: int) -> Tensor:
        """L̂_k from the noise that `likelihood` draws."""
        noise = image_noise(SEED, range(len(x)), x.device)
        q1 = self.normal(self.q1, x)
        h1 = q1.mean + q1.stddev * noise(GAUSSIAN, 0, (k, len(x), 4))
        q2 = self.normal(self.q2, h1)
        h2 = q2.mean + q2.stddev * noise(GAUSSIAN, 1, (k, len(x), 3))
        log_w = Normal(0.0, 1.0).log_prob(h2).sum(-1) - q1.log_prob(h1).sum(-1) - q2.log_prob(h2).sum(-1)
        log_w += self.normal(self.p1, h2).log_prob(h1).sum(-1) + Bernoulli(logits=self.out(h1)).log_prob(x).sum(-1)
        return log_w.logsumexp(0) - np.log(k)


GAUSSIAN = make(0).double().encoder[0](torch.zeros(1, PIXELS, dtype=torch.float64))
LAYERS = {
    f"{ours}.{part}": f"{theirs}.{name}"
    for ours, theirs in (("encoder.0", "q1"), ("encoder.1", "q2"), ("decoder.1", "p1"))
    for part, name in (("body.0", "net.0"), ("body.1", "net.2"), ("heads.0", "mu"), ("heads.1", "spread"))
} | {"decoder.0.body.0": "out.0", "decoder.0.body.1": "out.2", "decoder.0.heads.0": "out.4"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_strangers_weights_give_the_strangers_bounds(scale, transposed, tmp_path):
    stranger = Stranger(scale)
    tensors = stranger.state_dict()
    if transposed:  # as in numpy, with biases as rows
        tensors = {name: t.T.contiguous() if t.dim() == 2 else t.unsqueeze(0) for name, t in tensors.items()}
    path = tmp_path / "map.yaml"
    path.write_text(yaml.dump({"layers": LAYERS, "scale": scale, "transposed": transposed}))
    found = read_tensors(save(tmp_path / "weights.npz", tensors))
    model = load_mapped(make(1).double(), found, read_map(str(path)))
    torch.testing.assert_close(likelihood(model, X, 60).bound, stranger.bound(X.double(), 60), rtol=1e-12, atol=0)


def test_the_logarithm_of_a_softplus_has_no_end():
    raw = torch.tensor([-500.0, -41, -39, 0, 90], requires_grad=True)
    log_std = SCALES["softplus"](raw)
    exact = [-500, -41, -39, np.log(np.log(2)), np.log(90)]
    torch.testing.assert_close(log_std.detach(), torch.tensor(exact, dtype=torch.float32))
    (slope,) = torch.autograd.grad(log_std.sum(), raw)
    torch.testing.assert_close(slope, torch.tensor([1, 1, 1, 0.5 / np.log(2), 1 / 90], dtype=torch.float32))


def test_heads_may_differ_in_scale_and_tensors_be_named_one_by_one():
    stranger = Stranger("log_variance")
    tensors = {name.replace(".weight", "/W").replace(".bias", "/b"): t for name, t in stranger.state_dict().items()}
    layers = {ours: {"weight": f"{theirs}/W", "bias": f"{theirs}/b"} for ours, theirs in LAYERS.items()}
    scales = dict.fromkeys(("encoder.0", "encoder.1", "decoder.1"), "log_variance")
    step = {"steps": torch.tensor(3)}
    model = load_mapped(make(1).double(), tensors | step, {"layers": layers, "scale": scales, "ignored": ["steps"]})
    torch.testing.assert_close(likelihood(model, X, 60).bound, stranger.bound(X.double(), 60), rtol=1e-12, atol=0)


def test_one_layer_may_return_both_parameters_and_dictionaries_lie_within_others(tmp_path):
    stranger = Stranger("log_variance")
    theirs = stranger.state_dict()
    for kind in ("weight", "bias"):
        theirs[f"q1.both.{kind}"] = torch.cat([theirs.pop(f"q1.{head}.{kind}") for head in ("mu", "spread")])
    torch.save({"model": {"net": theirs}, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}, tmp_path / "theirs.pt")
    layers = {ours: f"model.net.{name}" for ours, name in LAYERS.items()}
    for head, half in enumerate(("first", "second")):
        layers[f"encoder.0.heads.{head}"] = {"layer": "model.net.q1.both", "half": half}
    mapping = {"layers": layers, "scale": "log_variance", "ignored": ["optimizer.*"]}
    model = load_mapped(make(1).double(), read_tensors(tmp_path / "theirs.pt"), mapping)
    torch.testing.assert_close(likelihood(model, X, 60).bound, stranger.bound(X.double(), 60), rtol=1e-12, atol=0)


def test_parameters_of_no_layer_are_mapped_too():
    trained = make(0, SigmoidBeliefNetwork)
    nn.init.normal_(trained.prior_logits)
    weights = [name.removesuffix(".weight") for name in trained.state_dict() if name.endswith(".weight")]
    layers = {name: name for name in weights}
    with pytest.raises(UserError, match="map layers: missing prior_logits"):
        load_mapped(make(1, SigmoidBeliefNetwork), trained.state_dict(), {"layers": layers})
    mapping = {"layers": layers | {"prior_logits": "prior_logits"}}
    found = load_mapped(make(1, SigmoidBeliefNetwork), trained.state_dict(), mapping)
    assert torch.equal(likelihood(found, X, 50).bound, likelihood(trained, X, 50).bound)


def without(layer: str) -> dict[str, str]:
    return {ours: theirs for ours, theirs in LAYERS.items() if ours != layer}


@pytest.mark.parametrize(("mapping", "change", "message"), [
    ({"layers": LAYERS}, lambda t: t.pop("q2.mu.bias"), "encoder.1.heads.0.bias: no tensor q2.mu.bias in the file"),
    ({"layers": LAYERS}, lambda t: t.update(extra=torch.ones(2)), "tensors not in the map: extra"),
    ({"layers": LAYERS}, lambda t: t.update({"q1.mu.bias": torch.ones(9)}),
     r"q1.mu.bias for encoder.0.heads.0.bias: expected shape \[4\], found \[9\]"),
    ({"layers": LAYERS, "transposed": True}, lambda t: None, r"expected shape \[6, 12\], found \[12, 6\] \(transposed"),
    ({"layers": without("decoder.1.body.0")}, lambda t: None, "map layers: missing decoder.1.body.0"),
    ({"layers": LAYERS | {"encoder.2.body.0": "q1.net.0"}}, lambda t: None, "the model has no encoder.2.body.0"),
    ({"layers": LAYERS | {"encoder.0.heads.0": {"layer": "q1.mu", "half": "last"}}}, lambda t: None,
     "map layers.encoder.0.heads.0.half=last: expected first or second"),
    ({"layers": LAYERS | {"encoder.0.heads.0": {"weight": "q1.mu.weight"}}}, lambda t: None,
     r"map layers.encoder.0.heads.0=.*: expected a name, .layer: …. or .weight: …, bias: …"),
    ({"layers": LAYERS, "scale": "stddev"}, lambda t: None, "scale.encoder.0=stddev: expected one of log_sigma"),
    ({"layers": LAYERS, "scale": {"decoder.0": "sigma"}}, lambda t: None, "map scale=decoder.0: expected one of enc"),
])  # fmt: skip
def test_what_does_not_fit_is_one_clear_line(mapping, change, message):
    tensors = Stranger("log_sigma").state_dict()
    change(tensors)
    with pytest.raises(UserError, match=message) as error:
        load_mapped(make(1).double(), tensors, mapping)
    assert "\n" not in str(error.value)


def test_exported_weights_of_another_model_are_refused():
    tensors = make(0).state_dict()
    with pytest.raises(UserError, match=r"weights: missing encoder.0.body.0.weight"):
        load_named(make(1), {name: t for name, t in tensors.items() if name != "encoder.0.body.0.weight"})
    with pytest.raises(UserError, match=r"decoder.1.heads.1.bias; a map names tensors that have other names$"):
        load_named(make(1), Stranger("sigma").state_dict())
    with pytest.raises(UserError, match=r"weights: the model has no encoder.0.body.9.weight"):
        load_named(make(1), tensors | {"encoder.0.body.9.weight": torch.ones(1)})
    with pytest.raises(UserError, match=r"decoder.0.heads.0.bias: expected shape \[12\], found \[3\]"):
        load_named(make(1), tensors | {"decoder.0.heads.0.bias": torch.ones(3)})


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_files_that_hold_something_else_are_refused_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"weights": Malicious()}))
    torch.save({"weights": Malicious()}, tmp_path / "torch.pt")
    np.savez(tmp_path / "objects.npz", a=np.array([{"a": 1}], dtype=object))
    for suffix in (".safetensors", ".npz", ".pt"):
        (tmp_path / f"text{suffix}").write_text("no tensors at all")
    for name in ("code.pt", "torch.pt", "objects.npz", "text.safetensors", "text.npz", "text.pt"):
        with pytest.raises(UserError, match=f"{name}: expected"):
            read_tensors(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(UserError, match="a file that exists"):
        read_tensors(tmp_path / "absent.npz")
    with pytest.raises(UserError, match=r"a file that ends in .safetensors, .npz"):
        read_tensors(tmp_path / "weights.h5")
    with pytest.raises(UserError, match=r"to=.*weights.pt: expected a file that ends in .safetensors"):
        write_tensors(tmp_path / "weights.pt", {}, {})


@pytest.mark.parametrize(("content", "message"), [
    ("layers: [", "expected YAML"), ("hello", "expected a mapping with layers"),
    ("layers: {a: b}\ntranspose: true", "transpose: no such key .did you mean transposed"),
    ("layers: {a: b}\ntransposed: 3", "transposed=3: expected true or false"),
    ("layers: {a: b}\nignored: epoch", "ignored=epoch: expected a list of names"),
])  # fmt: skip
def test_malformed_maps_are_refused(content, message, tmp_path):
    (tmp_path / "map.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_map(str(tmp_path / "map.yaml"))
    with pytest.raises(UserError, match=r"map=xqding_one_laver: expected a YAML file, or one of .*did you mean"):
        read_map("xqding_one_laver")


def test_an_exported_run_is_measured_again_to_the_last_digit(composed, cli, tiny, tmp_path):
    record = run(composed(*tiny, "schedule.epochs=1"))
    file = tmp_path / "published.safetensors"
    done = cli("-m", "iwae_lab.export", str(tmp_path / "runs" / record.run_id), "--to", str(file))
    assert done.returncode == 0, done.stderr
    measured = cli("-m", "iwae_lab.evaluate", str(file))
    assert measured.returncode == 0, measured.stderr
    assert measured.stdout.rstrip().endswith(": equal")
    folder = tmp_path / "runs" / record.run_id
    with pytest.raises(
        UserError, match=r"--to=.*: expected another name, since .*result\.json is no record of exported"
    ):
        export(folder, folder / "result.safetensors")
    dataclasses.replace(record, status="interrupted").write(folder)
    with pytest.raises(UserError, match=r"RUN_DIR=.*: expected a finished run, but its record says interrupted"):
        export(folder, file)
    refused = cli("-m", "iwae_lab.export", str(tmp_path), "--to", str(file))
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
