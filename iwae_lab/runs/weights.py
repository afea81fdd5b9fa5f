"""Weights in files, ours and those of others, and maps from their names and conventions to ours.

A map is a YAML file that names, for each of our linear layers, the corresponding layer in the file:

    transposed: false                # true where matrices are [inputs, outputs]
    layers:
      encoder.0.body.0: q.net.0      # q.net.0.weight and q.net.0.bias, or {weight: W1, bias: b1}
      encoder.0.heads.0: q.mean
      encoder.0.heads.1: q.spread    # or {layer: q.both, half: second} of a layer that returns both
                                     # parameters outside layers likewise: prior_logits: theirs
    scale: log_variance              # what the second head of Gaussians returns; or per layer:
                                     # {encoder.0: log_variance, decoder.1: softplus}
    ignored: [epoch, "optimizer.*"]  # tensors in the file that are not part of the model

Tensors of dictionaries within dictionaries have names with dots: decoder_state_dict.0.weight. `scale` is one of
log_sigma, sigma, log_variance, variance and softplus (σ is the softplus of the output).
"""

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from iwae_lab.console.atomic import writable, write_atomically
from iwae_lab.console.errors import UserError, did_you_mean, require, require_one_of
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.models.distributions import Gaussian

__all__ = ["MAPS", "SCALES", "load_mapped", "load_named", "read_map", "read_tensors", "write_tensors"]

MAPS = Path(__file__).parent / "maps"
SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".ckpt", ".model")
HALVES = ("first", "second")

SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "log_sigma": lambda raw: raw,
    "sigma": torch.log,
    "log_variance": lambda raw: raw / 2,
    "variance": lambda raw: torch.log(raw) / 2,
    "softplus": lambda raw: F.softplus(raw.clamp(min=-40)).log() + raw.clamp(max=-40) + 40,  # below −40, log σ = raw
}
"""Maps a head's output to log σ."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name; for a checkpoint with a `state_dict`, the tensors in that.

    Nothing in the file is executed. Raises `UserError` for a file that can't be read in the format of its suffix.
    """
    require("weights", path, path.suffix in SUFFIXES, f"a file that ends in {', '.join(SUFFIXES)}")
    require("weights", path, path.is_file(), "a file that exists")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        content = torch.load(path, map_location="cpu", weights_only=True)
        return _tensors(content.get("state_dict", content))
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError, EOFError) as error:
        raise UserError(f"weights={path}: expected tensors by name ({' '.join(str(error).split())})") from None
    except Exception as error:  # pickle.UnpicklingError, whose message advises to trust the file
        raise UserError(f"weights={path}: expected nothing but tensors ({type(error).__name__})") from None


def _tensors(content: dict[Any, Any], within: str = "") -> dict[str, Tensor]:
    named = {f"{within}{key}": value for key, value in content.items() if isinstance(value, Tensor)}
    for key, value in content.items():
        if isinstance(value, dict):
            named |= _tensors(value, f"{within}{key}.")
    return named


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors to a .safetensors file and `metadata` to a .json file beside it, each whole or not at all."""
    require("to", path, path.suffix == ".safetensors", "a file that ends in .safetensors")
    require("to", path, writable(path.parent), "a file in a directory that can be written")
    write_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
    write_atomically(path.with_suffix(".json"), json.dumps(metadata, indent=2) + "\n")


def read_map(name: str) -> dict[str, Any]:
    """Read a map by its path, or by its name if it is in `MAPS`. Raises `UserError` if it is missing or malformed."""
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else MAPS / f"{name}.yaml"
    shipped = sorted(known.stem for known in MAPS.glob("*.yaml"))
    require("map", name, path.is_file(), f"a YAML file, or one of {', '.join(shipped)}{did_you_mean(name, shipped)}")
    try:
        mapping = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"map={name}: expected YAML ({' '.join(str(error).split())})") from None
    require("map", name, isinstance(mapping, dict) and isinstance(mapping.get("layers"), dict), "a mapping with layers")
    keys = ["transposed", "layers", "scale", "ignored"]
    for key in mapping:
        if key not in keys:
            raise UserError(f"map={name}: {key}: no such key{did_you_mean(str(key), keys)}; expected {', '.join(keys)}")
    transposed = mapping.get("transposed", False)
    require(f"map={name}: transposed", transposed, isinstance(transposed, bool), "true or false")
    ignored = mapping.get("ignored", [])
    require(f"map={name}: ignored", ignored, isinstance(ignored, list), "a list of names")
    return mapping


def load_named(model: LatentVariableModel, tensors: dict[str, Tensor]) -> LatentVariableModel:
    """Load parameters and buffers that have our names into the model. Raises `UserError` if they don't fit."""
    own = model.state_dict()
    _check_names("weights", list(own), list(tensors))
    for name, tensor in tensors.items():
        _check_shape(name, tensor, own[name])
    model.load_state_dict(tensors)
    return model


def load_mapped(model: LatentVariableModel, tensors: dict[str, Tensor], mapping: dict[str, Any]) -> LatentVariableModel:
    """Load tensors trained elsewhere into the model's parameters by a map (see the module's docstring).

    Raises `UserError` for a tensor that is missing, superfluous or of the wrong shape, and for an unknown layer or
    scale.
    """
    own = dict(model.named_parameters())
    layers = [name.removesuffix(".weight") for name in own if name.endswith(".weight")]
    alone = [name for name in own if name.rpartition(".")[0] not in layers]
    _check_names("map layers", layers + alone, list(mapping["layers"]))
    used = set()
    for key, theirs in mapping["layers"].items():
        entry = theirs if isinstance(theirs, dict) else {"layer": theirs}
        half = _half(key, entry)
        for kind in ("", ".weight", ".bias"):
            if key + kind not in own:
                continue
            target = own[key + kind]
            name = str(entry.get(kind[1:], f"{entry.get('layer')}{kind}"))
            if name not in tensors:
                raise UserError(f"{key}{kind}: no tensor {name} in the file{did_you_mean(name, list(tensors))}")
            tensor = tensors[name]
            if tensor.dim() == 2 and target.dim() == 2 and mapping.get("transposed", False):
                tensor = tensor.T
            if target.dim() == 1:
                tensor = tensor.flatten()  # a vector may be stored as a row
            if half is not None:
                tensor = tensor.chunk(2)[half]
            _check_shape(f"{name} for {key}{kind}", tensor, target)
            target.data.copy_(tensor)
            used.add(name)
    ignored = mapping.get("ignored", [])
    superfluous = sorted(n for n in tensors.keys() - used if not any(fnmatchcase(n, pattern) for pattern in ignored))
    if superfluous:
        raise UserError(f"tensors not in the map: {', '.join(superfluous)}; expected them in layers or in ignored")
    _set_scales(model, mapping.get("scale", "log_sigma"))
    return model


def _half(key: str, entry: dict[str, Any]) -> int | None:
    """Which half of the layer in the file an entry of the map names; None for all of it."""
    named = entry.keys() - {"half"}
    expected = "a name, {layer: …} or {weight: …, bias: …}, and half: first or second"
    require(f"map layers.{key}", entry, named in ({"layer"}, {"weight", "bias"}), expected)
    half = entry.get("half")
    require(f"map layers.{key}.half", half, half in (None, *HALVES), "first or second")
    return None if half is None else HALVES.index(half)


class ScaledGaussian(nn.Module):
    """A Gaussian conditional whose second head returns the scale in a form other than log σ."""

    def __init__(self, layer: nn.Module, scale: str) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale

    def forward(self, h: Tensor) -> Gaussian:
        mean, raw = self.layer(h)
        return Gaussian(mean, SCALES[self.scale](raw))

    def extra_repr(self) -> str:
        return self.scale


def _set_scales(model: LatentVariableModel, scale: str | dict[str, str]) -> None:
    posteriors, _ = model.conditionals(*model.sample_joint(1))
    if not any(isinstance(q, Gaussian) for q in posteriors):
        expected = f"none, as {type(model).__name__} has no Gaussian latents"
        require("map scale", scale, scale == "log_sigma", expected)
        return
    gaussian = [f"encoder.{level}" for level in range(len(model.encoder))]
    gaussian += [f"decoder.{level}" for level in range(1, len(model.decoder))]
    scales = scale if isinstance(scale, dict) else dict.fromkeys(gaussian, scale)
    for name, kind in scales.items():
        require_one_of("map scale", name, gaussian)
        require_one_of(f"map scale.{name}", kind, list(SCALES))
        part, level = name.split(".")
        stack = getattr(model, part)
        if kind != "log_sigma":
            stack[int(level)] = ScaledGaussian(stack[int(level)], kind)


def _check_names(what: str, expected: list[str], given: list[str]) -> None:
    if missing := [name for name in expected if name not in given]:
        hint = "; a map names tensors that have other names" if not set(expected) & set(given) else ""
        raise UserError(f"{what}: missing {', '.join(missing)}{hint}")
    if superfluous := [name for name in given if name not in expected]:
        hint = did_you_mean(superfluous[0], expected)
        raise UserError(f"{what}: the model has no {', '.join(superfluous)}{hint}")


def _check_shape(name: str, tensor: Tensor, target: Tensor) -> None:
    if tensor.shape != target.shape:
        turned = (tensor.dim() == 2 and tensor.T.shape == target.shape and " (transposed?)") or ""
        raise UserError(f"{name}: expected shape {list(target.shape)}, found {list(tensor.shape)}{turned}")
