"""Reads runs from their folders, names what is known of each by key, and selects among them."""

import functools
import hashlib
import itertools
import json
import logging
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iwae_lab.console.errors import UserError, did_you_mean
from iwae_lab.evaluation.keys import (
    AIS_GAIN,
    AIS_GAIN_SE,
    GAPS_AMORTIZATION,
    GAPS_APPROXIMATION,
    OVERFITTING_GAP,
    OVERFITTING_GAP_SE,
    SNR_GENERATIVE,
    SNR_INFERENCE,
    TEST_ACTIVE_UNITS,
    TEST_NLL,
    TEST_NLL_SE,
    log10_variances,
    tightness_of,
)
from iwae_lab.runs.record import EXTERNAL, Record, read_metrics, read_record

__all__ = [
    "Found",
    "Run",
    "as_number",
    "differences",
    "find_runs",
    "known_key",
    "select",
    "sort_key",
    "text",
    "training_curve",
]

log = logging.getLogger(__name__)

IDENTITY = ("run_id", "dataset", "binarization", "protocol", "model", "objective", "k", "schedule", "seed", "status")
# Keys that determine the protocol or follow from it.
PROTOCOL_KEYS = re.compile(r"protocol|binarization|(dataset|evaluation)(\..*)?")
Setting = tuple[tuple[str, str], ...]
ALIASES = {"epochs": "schedule.epochs"}


@dataclass(frozen=True)
class Run:
    """A record, and its configuration as text by key."""

    folder: Path
    record: Record
    facts: dict[str, str]
    """identity keys and dotted keys of the configuration"""
    setting: dict[str, str]
    """the facts that change the result, except the seed: runs that share them are repetitions"""
    first: Record | None = None
    """of the run it started from, if that can be read"""

    @property
    def measured(self) -> bool:
        """Whether there is a result to compare."""
        return self.record.status == "finished" and math.isfinite(self.record.metrics.get(TEST_NLL, math.nan))

    def require_metrics(self) -> None:
        """Raise an error where a metric that comparisons take for granted is missing or of another kind."""
        if not self.measured:
            return
        metrics = self.record.metrics
        pairs = [
            self.nll_by_ais or (),
            self.encoder_gaps or (),
            self.train_gap or (),
            *tightness_of(metrics),
            (self.nll, self.nll_se),
        ]
        variances = log10_variances(metrics)
        numbers = [*itertools.chain(*pairs, *variances), *self.active_units]
        if variances and len(variances) != len(self.active_units):
            raise ValueError("active units of other layers than their variances")
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError("a metric is not finite")

    @property
    def nll(self) -> float:
        """Test NLL, nats."""
        return float(self.record.metrics[TEST_NLL])

    @property
    def nll_se(self) -> float:
        """Standard error of `nll` over images."""
        return float(self.record.metrics[TEST_NLL_SE])

    @property
    def nll_by_ais(self) -> tuple[float, float] | None:
        """`nll` less AIS's gain over L_k on the annealed images, and the standard error of that gain, nats."""
        metrics = self.record.metrics
        return (self.nll - metrics[AIS_GAIN], metrics[AIS_GAIN_SE]) if AIS_GAIN in metrics else None

    @property
    def active_units(self) -> list[int]:
        """Per stochastic layer, from the image upwards."""
        return list(self.record.metrics[TEST_ACTIVE_UNITS])

    @property
    def train_gap(self) -> tuple[float, float] | None:
        """Test NLL less that of training images and its standard error over images, nats, where they were measured."""
        metrics = self.record.metrics
        return (metrics[OVERFITTING_GAP], metrics[OVERFITTING_GAP_SE]) if OVERFITTING_GAP in metrics else None

    @property
    def encoder_gaps(self) -> tuple[float, float] | None:
        """Approximation and amortization gap, nats, where they were measured."""
        metrics = self.record.metrics
        return (metrics[GAPS_APPROXIMATION], metrics[GAPS_AMORTIZATION]) if GAPS_AMORTIZATION in metrics else None

    @property
    def gradient_snr(self) -> tuple[float, float] | None:
        """Signal-to-noise ratio of the gradients in θ and φ, where it was measured (diagnostics=true)."""
        metrics = self.record.metrics
        ratios = [float(metrics.get(key, math.nan)) for key in (SNR_GENERATIVE, SNR_INFERENCE)]
        return (ratios[0], ratios[1]) if all(map(math.isfinite, ratios)) else None


@dataclass
class Found:
    """What `find_runs` finds."""

    runs: list[Run] = field(default_factory=list)
    """one per run_id"""
    notes: list[str] = field(default_factory=list)
    """one line for each run left out, and why"""


def text(value: Any) -> str:
    """A value as a person would type it: null, true, 0.001, [200,200]."""
    if type(value) in (int, float):
        return repr(value).removesuffix(".0")
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def sort_key(value: str) -> tuple[bool, float, str]:
    """Orders numbers by size, and words after them."""
    number = as_number(value)
    return number is None, number or 0.0, value


def as_number(value: str) -> float | None:
    """The number a text stands for, or None."""
    try:
        return float(value)
    except ValueError:
        return None


def find_runs(directories: list[Path]) -> Found:
    """Read every run folder at or below the directories; hidden folders (.replaced) are skipped.

    Raises `UserError` for a path that is no directory, or where there is no run at all.
    """
    found = Found()
    records: dict[str, tuple[Path, Record]] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory}: expected a directory with run folders")
        for folder in _run_folders(directory, found.notes):
            try:
                record = read_record(folder)
            except UserError as error:
                found.notes.append(f"unreadable: {error}")
                continue
            if record.run_id not in records:
                records[record.run_id] = folder, record
            elif folder.resolve() != records[record.run_id][0].resolve():
                copies = (records[record.run_id], (folder, record))
                kept = max(copies, key=lambda copy: (copy[1].status == "finished", copy[1].finished or ""))
                found.notes.append(f"in two folders, counted once: {record.run_id} (as in {kept[0]})")
                records[record.run_id] = kept
    if not records:
        where = ", ".join(map(str, directories))
        raise UserError(f"{where}: expected run folders with a result.json, found none" + _more(found.notes))
    for folder, record in records.values():
        try:
            first = _first_stage(record, records)
            setting = _setting(record, first, records)
            identity = {key: text(getattr(record, key)) for key in (*IDENTITY, "precision")}
            run = Run(folder, record, _flat(record.config) | setting | identity, setting, first)
            run.require_metrics()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            path, what = folder / "result.json", f"{type(error).__name__}: {error}"
            found.notes.append(f"unreadable: {path}: expected the keys and metrics of a run ({what})")
            continue
        found.runs.append(run)
    _drop_duplicates(found)
    return found


@functools.cache
def training_curve(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv; an empty list, and a warning, if it can't be read."""
    try:
        return read_metrics(folder)
    except UserError as error:
        log.warning("no training curve: %s", error)
        return []


def _drop_duplicates(found: Found) -> None:
    """Keep the latest of the results that share setting and seed: they are copies, not repetitions."""
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in found.runs:
        if run.measured:
            alike[json.dumps([run.record.seed, run.record.protocol, run.setting], sort_keys=True)].append(run)
    for same in alike.values():
        kept = max(same, key=lambda run: run.record.finished or "")
        for run in same:
            if run is not kept:
                found.runs.remove(run)
                found.notes.append(
                    f"the same setting and seed, counted once: {run.record.run_id} (as {kept.record.run_id})"
                )


def _more(notes: list[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _run_folders(directory: Path, notes: list[str]) -> Iterator[Path]:
    """Folders with a result.json; notes: which folders can't be read."""

    def unreadable(error: OSError) -> None:
        notes.append(f"unreadable: {error.filename}: {error.strerror}")

    seen = set()  # since links may lead back
    for path, below, files in os.walk(directory, onerror=unreadable, followlinks=True):
        if (here := os.path.realpath(path)) in seen:
            below.clear()
            continue
        seen.add(here)
        below[:] = [] if "result.json" in files else sorted(name for name in below if not name.startswith("."))
        if "result.json" in files:
            yield Path(path)


def _flat(config: dict[str, Any]) -> dict[str, str]:
    """Dotted keys; a group's own name holds the chosen option (objective, objective.alpha)."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            for name, inner in _flat(value).items():
                flat[key if name == "name" else f"{key}.{name}"] = inner
        else:
            flat[key] = text(value)
    return flat


def _setting(record: Record, first: Record | None, records: dict[str, tuple[Path, Record]]) -> dict[str, str]:
    setting = {key: value for key, value in record.identity.items() if key not in ("seed", "stack")}
    # auto's choice was found harmless, and differs between the k of one sweep
    setting["precision"] = "bf16" if record.config.get("precision") == "bf16" else "32 or auto"
    if record.objective == EXTERNAL:
        name, content = Path(record.config["objective"]["weights"]).stem, record.identity["objective"]["content"]
        setting["objective"] = {"name": EXTERNAL, "weights": f"{name} ({content})"}
    if record.identity.get("init_from") is not None:
        setting["init_from"] = _origin(record, first, records)
    return _flat(setting)


def _origin(second: Record, first: Record | None, records: dict[str, tuple[Path, Record]]) -> str:
    """A name for the run another one starts from, without its seed where its record can be read.

    So repetitions that each start from a first stage of their own still count as repetitions.
    """
    first_id, weights, _ = str(second.identity["init_from"]).partition("#")  # exported weights have no other state
    if first is None:
        return first_id
    setting = json.dumps(_setting(first, _first_stage(first, records), records), sort_keys=True)
    digest = hashlib.sha256(setting.encode()).hexdigest()[:8]
    name = f"{first.dataset}-{first.model}-{first.objective}-k{first.k}-{digest}"
    return f"{name}.safetensors" if weights else name


def _first_stage(second: Record, records: dict[str, tuple[Path, Record]]) -> Record | None:
    """The record of the run another one starts from; None if there is none, or another one in its place."""
    if second.identity.get("init_from") is None:
        return None
    first_id = str(second.identity["init_from"]).partition("#")[0]
    try:
        first = records[first_id][1] if first_id in records else read_record(Path(str(second.config["init_from"])))
    except UserError:
        return None
    return first if first.run_id == first_id else None


def differences(runs: list[Run]) -> list[dict[str, str]]:
    """For each run, the keys of its setting in which the runs differ, and its values.

    A group's own keys (objective.alpha) count only among runs with the same option of that group (objective).
    """
    distinct = {tuple(run.setting.items()): run.setting for run in runs}  # far fewer than runs: seeds share them
    scopes: dict[tuple[str, str | None], list[Setting]] = defaultdict(list)
    for items, setting in distinct.items():
        for group in {_group(key) for key in setting}:
            scopes[group, setting.get(group)].append(items)
    differing: dict[Setting, dict[str, str]] = {items: {} for items in distinct}
    for (group, _), members in scopes.items():
        values = defaultdict(set)
        for items in members:
            for key, value in items:
                if _group(key) == group:
                    values[key].add(value)
        for key, present in sorted(values.items()):
            # weights trained elsewhere lack the keys of training, which sets no other run apart
            ours = [items for items in members if distinct[items].get("objective") != EXTERNAL]
            if len(present) > 1 or any(key not in distinct[items] for items in ours):
                for items in members:
                    if items in ours or key in distinct[items]:
                        differing[items][key] = distinct[items].get(key, "absent")
    return [differing[tuple(run.setting.items())] for run in runs]


def _group(key: str) -> str:
    return key.partition(".")[0] if "." in key else ""


def select(runs: list[Run], conditions: list[str]) -> list[Run]:
    """The runs that meet every condition key=value[,value].

    Raises `UserError` for a key or value no run has, and where a condition asks for several protocols at once.
    """
    chosen, mixing = runs, None
    for condition in conditions:
        key, equals, wanted = condition.partition("=")
        if not equals:
            raise UserError(f"--where {condition}: expected key=value[,value]")
        key = known_key(runs, key, "--where ")
        present = {run.facts[key] for run in runs if key in run.facts}
        values = [wanted] if wanted in present else [_canonical(value) for value in wanted.split(",")]
        for value in values:
            if value not in present:
                listed = ", ".join(sorted(present, key=sort_key)) if len(present) <= 12 else "another value"
                hint = did_you_mean(value, sorted(present))
                raise UserError(f"--where {key}={value}: no run has it{hint}; expected {listed}")
        chosen = [run for run in chosen if run.facts.get(key) in values]
        if len(values) > 1 and PROTOCOL_KEYS.fullmatch(key):
            mixing = condition
    protocols = sorted({run.record.protocol for run in chosen})
    if mixing and len(protocols) > 1:
        raise UserError(
            f"--where {mixing}: it mixes {len(protocols)} protocols ({'; '.join(protocols)}), and an NLL under one "
            f"is not comparable with an NLL under another; expected one value, or no such condition: every protocol "
            f"then has a table of its own"
        )
    if not chosen:
        raise UserError(f"--where {' '.join(conditions)}: no run meets all of them")
    return chosen


def known_key(runs: list[Run], key: str, option: str) -> str:
    """The key's full name in the facts of the runs. Raises `UserError` if no run has it."""
    key = ALIASES.get(key, key)
    known = {name for run in runs for name in run.facts}
    if key not in known:
        hint = did_you_mean(key, sorted(known))
        expected = f"expected one of {', '.join(IDENTITY)} or a key of the configuration, such as objective.alpha"
        raise UserError(f"{option}{key}: no run has this key{hint}; {expected}")
    return key


def _canonical(value: str) -> str:
    try:
        return text(json.loads(value))
    except ValueError:
        return value
