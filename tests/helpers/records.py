"""Run folders as training leaves them, made up in milliseconds."""

import csv
import math
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from iwae_lab.compare.paper import ARCHITECTURES
from iwae_lab.runs.identity import NOT_HASHED, run_id
from iwae_lab.runs.record import Record, read_record

__all__ = ["make_run"]


def make_run(
    runs_dir: Path,
    *,
    nll: float = 85.0,
    nll_se: float = 0.2,
    objective: str = "iwae",
    model: str = "one_layer",
    k: int = 1,
    seed: int = 0,
    protocol: str = "mnist/dynamic",
    status: str = "finished",
    error: str | None = None,
    finished: str = "2026-01-01T01:00:00+00:00",
    pictures: bool = False,
    train_gap: float | None = None,
    ais_gain: float | None = None,
    encoder_gaps: tuple[float, float] | None = None,
    **overrides: Any,
) -> Path:
    """Write a run folder and give its path; `overrides` are keys of the configuration, with __ for dots."""
    dataset, _, binarization = protocol.partition("/")
    config: dict[str, Any] = {
        "dataset": {"name": dataset.partition("#")[0], "binarization": binarization.partition(" ")[0]},
        "model": {"name": model, "_target_": "iwae_lab.models.hierarchical.HierarchicalModel", **ARCHITECTURES[model]},
        "objective": {"name": objective, "_target_": f"iwae_lab.objectives.{objective}.{objective.upper()}"},
        "schedule": {"name": "quick", "epochs": 20, "batch_size": 20, "learning_rate": 0.001},
        "optimizer": {"name": "adam", "beta1": 0.9},
        "logger": {"csv": {"_target_": "iwae_lab.loggers.metrics_csv.MetricsCSV"}},
        "k": k,
        "seed": seed,
        "evaluation": {"k": 5000, "images": None},
        "init_from": None,
        "runs_dir": str(runs_dir),
        "precision": "auto",
        "threads": "auto",
    }
    for key, value in overrides.items():
        group, _, name = key.partition("__")
        (config[group] if name else config)[name or key] = value
    random = Random(f"{objective}{model}{k}{seed}")
    variances = [
        [math.exp(random.gauss(-7 if unit % 2 else 0, 1.0)) for unit in range(units)]
        for units in config["model"]["latents"]
    ]
    metrics = {
        "test/nll": nll,
        "test/nll_se": nll_se,
        "test/nll_k": 5000,
        "test/elbo": -nll - 2,
        "test/active_units": [sum(variance > 0.01 for variance in layer) for layer in variances],
        "test/unit_variances": variances,
        "test/nll_active_only": nll + 0.01,
        "val/nll": nll + 0.3,
    }
    metrics |= {
        "test/nll_50": nll + 1,
        "test/nll_50_se": nll_se,
        "test/active_units_authors": metrics["test/active_units"],
    }
    if ais_gain is not None:
        metrics |= {"test/ais/gain": ais_gain, "test/ais/gain_se": 0.03, "test/ais/images": 100}
    if encoder_gaps is not None:
        for name, gap in zip(("approximation", "amortization"), encoder_gaps, strict=True):
            metrics |= {f"test/gaps/{name}": gap, f"test/gaps/{name}_se": 0.05}
    if train_gap is not None:
        metrics |= {"test/overfitting/gap": train_gap, "test/overfitting/gap_se": 0.3}
    identity = {key: value for key, value in config.items() if key not in NOT_HASHED}
    if config["init_from"]:
        first = Path(config["init_from"])
        identity["init_from"] = read_record(first).run_id if first.is_dir() else first.name
    name = run_id(identity)
    record = Record(
        run_id=name,
        dataset=config["dataset"]["name"],
        binarization=config["dataset"]["binarization"],
        protocol=protocol,
        model=model,
        objective=objective,
        k=k,
        schedule="quick",
        seed=seed,
        epochs=config["schedule"]["epochs"],
        config=config,
        identity=identity,
        precision="32" if config["precision"] == "auto" else config["precision"],
        status=status,
        error=error,
        train_seconds=431.0,
        images_per_second=5120.0,
        metrics=metrics if status == "finished" else {},
        versions={"python": "3.11"},
        git=None,
        finished=finished,
    )
    folder = runs_dir / name
    folder.mkdir(parents=True)
    record.write(folder)
    if status == "finished":
        _write_metrics(folder / "metrics.csv", nll, len(variances), random)
    if pictures:
        for name in ("samples", "interpolations"):
            _draw_samples(folder / "figures" / f"{name}.png", random)
    return folder


def _write_metrics(path: Path, nll: float, layers: int, random: Random) -> None:
    with path.open("w", newline="") as file:
        levels = [f"val/active_units/{level}" for level in range(1, layers + 1)]
        writer = csv.writer(file)
        writer.writerow(["step", "epoch", "train/bound", "learning_rate", "val/bound", "val/nll", *levels])
        for done in range(1, 21):
            bound = -nll - 60 / done - random.random()
            measured = [bound - 0.5, -bound + 0.2, *[10 + done // 2] * layers]
            row: list[Any] = [done * 200, done, bound, 0.001]
            writer.writerow(row + (measured if done in (1, 2, 3, 5, 8, 12, 20) else [""] * len(measured)))


def _draw_samples(path: Path, random: Random) -> None:
    image = Image.new("L", (750, 750), 255)
    pen = ImageDraw.Draw(image)
    for cell in range(100):
        corner = (cell % 10 * 75 + 20, cell // 10 * 75 + 5)
        pen.text(corner, str(random.randrange(10)), fill=random.randrange(120), font_size=60)
    path.parent.mkdir(exist_ok=True)
    image.save(path)
