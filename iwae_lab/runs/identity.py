"""The identity of a run: every value that changes its result, in a canonical form."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from iwae_lab.runs.config import Config, Node, parameter_schedules

__all__ = ["NOT_HASHED", "identity", "run_id"]

# Keys that change where and how fast a run computes, not what.
NOT_HASHED = (
    "logger",
    "accelerator",
    "runs_dir",
    "data_dir",
    "threads",
    "diagnostics",
    "force",
    "compile",
)


def identity(
    config: Config, nodes: Mapping[str, Node[Any]], content: str | None, whole_test: bool, start: str | None
) -> dict[str, Any]:
    """The values that change the result, typed by the schema and with defaults filled in; JSON types only.

    Classes of this package are named without their module, others by their import path. nodes: the checked option of
    each group. content: a hash of the images if they are not the published ones; it replaces the keys that say where
    they are. whole_test: whether evaluation.images covers the whole test set. start: the id of the run that `init_from`
    names.
    """
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_HASHED}
    for group, node in nodes.items():
        cls = node.target
        ours = cls.__module__.startswith("iwae_lab.")
        target = cls.__qualname__ if ours else f"{cls.__module__}.{cls.__qualname__}"
        annealed = parameter_schedules(values[group]) if group == "objective" else {}
        schedules = {key: values[group][key] for key in annealed}
        values[group] = {"name": str(values[group]["name"]), "_target_": target, **node.arguments, **schedules}
    if content is not None:
        dataset = values["dataset"]
        kept = {key: dataset[key] for key in ("name", "_target_", "binarization") if key in dataset}
        values["dataset"] = {**kept, "content": content}
    values["evaluation"] = dataclasses.asdict(config.evaluation) | ({"images": None} if whole_test else {})
    del values["evaluation"]["ais"], values["evaluation"]["gaps"]  # they add metrics and change no other
    values["init_from"] = start
    if config.stack == 1:
        del values["stack"]
    canonical: dict[str, Any] = _canonical(values)
    return canonical


def _canonical(value: Any) -> Any:
    """The same form for equal values: 1.0 becomes 1, tuples become lists, paths and enumerations become text."""
    if isinstance(value, dict):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def run_id(identity: dict[str, Any]) -> str:
    """<dataset>-<model>-<objective>-k<k>-s<seed>-<eight hex digits over all of the identity>."""
    names = "-".join(identity[group]["name"] for group in ("dataset", "model", "objective"))
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{names}-k{identity['k']}-s{identity['seed']}-{digest}"
