"""What makes a run the run it is: everything that changes its result, in one form however it was written."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iwae_lab.data.base import Dataset
from iwae_lab.data.protocol import Data
from iwae_lab.objectives.annealing import annealings
from iwae_lab.runs.config import Config, arguments
from iwae_lab.runs.record import read_record

__all__ = ["NOT_HASHED", "identity", "run_id"]

# Keys that change where and how fast a run computes, not what.
NOT_HASHED = (
    "logger",
    "accelerator",
    "trainer",
    "runs_dir",
    "data_dir",
    "threads",
    "diagnostics",
    "force",
    "compile",
)
GROUPS = ("dataset", "model", "objective", "schedule", "optimizer")


def identity(config: Config, dataset: Dataset, data_dir: Path, load: Callable[[], Data]) -> dict[str, Any]:
    """The values, as typed by the schema and with defaults, that a result depends on; JSON types only.

    A class of this package goes by its bare name, another by its import path. Images that are not published go by
    their content, whatever says where they are; `init_from` by the id of the run in that folder.
    load: called where the images must be seen. Raises `UserError` if there is no run in the folder `init_from`.
    """
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_HASHED}
    for group in GROUPS:
        annealed = annealings(values[group]) if group == "objective" else {}
        starts = {name: annealing.start for name, annealing in annealed.items()}
        cls, typed = arguments(values[group] | starts, group)
        typed |= {name: values[group][name] for name in annealed}
        ours = cls.__module__.startswith("iwae_lab.")
        target = cls.__qualname__ if ours else f"{cls.__module__}.{cls.__qualname__}"
        values[group] = {"name": str(values[group]["name"]), "_target_": target, **typed}
    if not dataset.is_published(data_dir):
        kept = {key: values["dataset"][key] for key in ("name", "_target_")}
        values["dataset"] = {**kept, "binarization": dataset.binarization, "content": load().content}
    values["evaluation"] = dataclasses.asdict(config.evaluation)
    if config.evaluation.images is not None and load().whole_test:
        values["evaluation"]["images"] = None
    if config.init_from is not None:
        values["init_from"] = read_record(Path(config.init_from)).run_id
    found: dict[str, Any] = _canonical(values)
    return found


def _canonical(value: Any) -> Any:
    """Equal values in equal form: 1.0 as 1, tuples as lists, paths and enumerations as text."""
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
