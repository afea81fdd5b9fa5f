"""Weights trained elsewhere, measured under our protocols and recorded like our own runs."""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from iwae_lab.console.atomic import writable
from iwae_lab.console.errors import UserError, did_you_mean, require
from iwae_lab.evaluation.keys import TEST_NLL
from iwae_lab.loggers.base import log_finished
from iwae_lab.runs.config import CONF, register
from iwae_lab.runs.experiment import Experiment, resolve
from iwae_lab.runs.folder import claimed, earlier_record, write_figures, write_per_image
from iwae_lab.runs.identity import run_id
from iwae_lab.runs.interrupted_evaluation import resumable
from iwae_lab.runs.measure import measure, require_measurable
from iwae_lab.runs.record import EXTERNAL, Record, now
from iwae_lab.runs.weights import load_mapped, load_named, read_map, read_tensors
from iwae_lab.training.figures.result import result_figures

__all__ = ["measure_external"]

log = logging.getLogger("iwae_lab")

MEASURED = ("dataset", "model", "evaluation")  # the keys that change the result
KEYS = (*MEASURED, "k", "runs_dir", "data_dir", "accelerator", "threads", "compile", "force", "logger")


def measure_external(weights: Path, model: str, map: str | None, overrides: Sequence[str] = ()) -> tuple[Record, Path]:
    """Measure the weights in a file; returns their record, and its folder under runs_dir.

    model: an option of the group `model`. map: see `iwae_lab.runs.weights`; None if the file uses our names. overrides:
    "key=value" for the dataset to measure them on and the k they were trained with, and, where wanted, for keys of the
    dataset, model and evaluation, for where to compute, and for trackers (none by default). Weights that have a record
    are measured again only with force=true, but logged to trackers that lack it. Raises `UserError` for weights that
    don't fit, for other or missing keys, and if the NLL is not finite.
    """
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    for key, override in zip(keys, overrides, strict=True):
        if key.partition(".")[0] not in KEYS:
            raise UserError(f"{override}: expected keys of {', '.join(KEYS)}, as nothing is trained")
    for key, what in (("dataset", "the images to measure them on"), ("k", "the samples they were trained with")):
        if key not in keys:
            raise UserError(f"{key} is missing: expected {key}=VALUE, {what}")
    models = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    require("--model", model, model in models, f"one of {', '.join(models)}{did_you_mean(model, models)}")
    untracked = [] if "logger" in keys else ["logger=none"]
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        experiment = resolve(compose("config", overrides=[f"model={model}", *untracked, *overrides]))
    experiment.prepare_cpu()
    tensors, mapping = read_tensors(weights), None if map is None else read_map(map)
    loaded = experiment.model()
    loaded = load_named(loaded, tensors) if mapping is None else load_mapped(loaded, tensors, mapping)
    require_measurable(loaded, experiment.data, experiment.config)
    content = hashlib.sha256(weights.read_bytes() + json.dumps(mapping, sort_keys=True).encode()).hexdigest()[:8]
    record = _record(experiment, {"name": EXTERNAL, "content": content}, weights, map)
    runs_dir = Path(experiment.config.runs_dir)
    require("runs_dir", runs_dir, writable(runs_dir), "a directory that can be written")
    folder = runs_dir / record.run_id
    with claimed(folder, experiment.config.force):
        earlier = earlier_record(folder)
        if earlier is not None:
            log.info("these weights are already measured; force=true measures them again")
            log_finished(experiment.trackers(earlier, None))
            return earlier, folder
        loaded = loaded.to(experiment.device).eval()
        with resumable(folder, experiment.config) as kept:
            measurements = measure(loaded, experiment.data, experiment.config, experiment.device, kept=kept)
        metrics = measurements.metrics()
        require("weights", weights, math.isfinite(metrics[TEST_NLL]), f"a finite NLL, found {metrics[TEST_NLL]}")
        record = dataclasses.replace(record, status="finished", metrics=metrics, finished=now())
        write_figures(folder, result_figures(loaded, experiment.data, measurements.standard.units, metrics))
        write_per_image(folder, measurements.per_image())
        record.write(folder)
        log_finished(experiment.trackers(record, None))
    return record, folder


def _record(experiment: Experiment, objective: dict[str, str], weights: Path, map: str | None) -> Record:
    """The record before anything is measured. objective: identifies the weights."""
    identity = {key: experiment.identity[key] for key in MEASURED}
    identity |= {"objective": objective, "k": experiment.config.k, "seed": 0, "init_from": None}
    config = {key: experiment.composed[key] for key in KEYS}
    config |= {"objective": objective | {"weights": str(weights), "map": map}, "seed": 0, "init_from": None}
    return dataclasses.replace(
        experiment.record("32"),
        run_id=run_id(identity),
        objective=EXTERNAL,
        schedule=EXTERNAL,
        seed=0,
        epochs=0,
        config=config,
        identity=identity,
    )
