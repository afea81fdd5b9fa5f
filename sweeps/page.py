"""What sweeps/README.md shows beside the tables of iwae_lab.compare: python sweeps/page.py [FIGURE.png]"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iwae_lab.compare.report import format_units, markdown_table
from iwae_lab.console.images import rendered, write_png
from iwae_lab.runs.record import Record, read_metrics, read_record

RECORDS = Path(__file__).parent / "records"
ORDER = ("vae", "iwae")

Lines = list[str]


def _as_in_the_paper(record: Record) -> tuple[str, int, int, str]:
    return record.model, ORDER.index(record.objective), record.k, record.schedule


def _by_val_nll(record: Record) -> float:
    return float(record.metrics["val/nll"])


def runs(
    table: str, order: Callable[[Record], Any] = _as_in_the_paper, **wanted: object
) -> Iterator[tuple[Path, Record]]:
    """The folders and records of a table whose record has the values wanted."""
    records = [(path.parent, read_record(path.parent)) for path in RECORDS.glob(f"{table}/*/result.json")]
    for folder, record in sorted(records, key=lambda run: order(run[1])):
        if all(getattr(record, key) == value for key, value in wanted.items()):
            yield folder, record


def name(record: Record) -> str:
    return f"{record.model}, {record.objective.upper()} k={record.k}"


def measured_again(folder: Path) -> dict[str, Any]:
    """What was measured after the run."""
    path = folder / "evaluation.json"
    return json.loads(path.read_text()) if path.exists() else {}


def evaluations() -> Iterator[tuple[Record, dict[str, Any]]]:
    for folder, record in runs("table1"):
        if measured := measured_again(folder):
            yield record, measured


def annealed() -> Lines:
    """L_5000 and AIS of the same 1,000 test images, how far AIS may be off, and what that makes of all 10,000."""
    rows = []
    for record, measured in evaluations():
        above, gap = (
            f"{measured[key]:.2f} ± {measured[f'{key}_se']:.2f}"
            for key in ("ais/above_bound_5000", "bidirectional/gap")
        )
        all_images = record.metrics["test/nll"] - measured["ais/above_bound_5000"]
        nlls = [f"{nll:.2f}" for nll in (-measured["ais/bound_5000"], -measured["ais/bound"], all_images)]
        rows.append([name(record), *nlls[:2], above, gap, nlls[2]])
    head = ["", "−L_5000", "−AIS", "too high by", "bidirectional gap", "all images, less that"]
    return markdown_table(head, rows)


def best() -> Lines:
    """L_5000 of all test images, and by how much AIS finds it too high on some of them."""
    rows = []
    for folder, record in runs("best", lambda record: (record.model, -record.metrics["test/nll"])):
        found = record.metrics | measured_again(folder)
        if "test/ais/gain" not in found:  # a first stage
            continue
        above, gap = (f"{found[key]:.2f} ± {found[f'{key}_se']:.2f}" for key in ("test/ais/gain", "test/ais/gap"))
        nll, corrected = found["test/nll"], found["test/nll"] - found["test/ais/gain"]
        last = f"{record.model}, {record.epochs} epochs with k={record.k}"
        rows.append([last, f"{nll:.2f}", above, gap, f"{corrected:.2f}", str(found["test/ais/images"])])
    head = ["last stage", "−L_5000", "too high by", "bidirectional gap", "less that", "images annealed"]
    return markdown_table(head, rows)


def overfitted() -> Lines:
    """NLL of training and test images, and units as this project and as the paper's authors count them."""
    rows = []
    for record, measured in evaluations():
        train, test = measured["overfitting/train"], measured["overfitting/test"]
        units = format_units(record.metrics["test/active_units"]), format_units(measured["test/active_units_authors"])
        rows.append([name(record), f"{train:.2f}", f"{test:.2f}", f"{test - train:.2f}", *units])
    return markdown_table(["", "train", "test", "gap", "active units", "as the authors count"], rows)


def binarized() -> Lines:
    """Training pixels that are resampled, and drawn once: the bound of training, and of validation with the same k."""
    rows = []
    for folder, record in runs("static"):
        (resampled,) = runs("table1", model=record.model, objective=record.objective, k=record.k, seed=record.seed)
        for how, (where, which) in (("resampled", resampled), ("drawn once", (folder, record))):
            last = read_metrics(where)[-1]
            train, val, nll = -last["train/bound"], -last["val/bound"], which.metrics["test/nll"]
            cells = [f"{value:.2f}" for value in (train, val, val - train, nll)]
            rows.append([f"{name(which)}, {how}", *cells, format_units(which.metrics["test/active_units"])])
    return markdown_table(["", "−train/bound", "−val/bound", "gap", "test NLL", "active units"], rows)


def objectives() -> Lines:
    """After 12 epochs of mnist_5k, with about ten evaluations of p(x, z) per image."""
    rows = [
        [f"`{r.objective}`", str(r.k), f"{r.metrics['val/nll']:.2f}", format_units(r.metrics["test/active_units"])]
        for _, r in runs("objectives", _by_val_nll)
    ]
    return markdown_table(["objective", "k", "validation NLL", "active units"], rows)


def defaults() -> Lines:
    """The default recipe and what it was chosen from."""
    rows = [[*_recipe(record), *_nlls(record)] for _, record in runs("default", _by_val_nll)]
    return markdown_table(["optimizer", "rate", "batch", "epochs", "validation NLL", "test NLL"], rows)


def minutes() -> Lines:
    """What six minutes are worth."""
    rows = [
        [f"`{record.objective}`", record.schedule, *_recipe(record), f"{record.train_seconds / 60:.1f}", *_nlls(record)]
        for _, record in runs("minutes", _by_val_nll)
    ]
    head = ["objective", "schedule", "optimizer", "rate", "batch", "epochs", "minutes", "validation NLL", "test NLL"]
    return markdown_table(head, rows, left=3)


def _recipe(record: Record) -> Lines:
    schedule = record.config["schedule"]
    recipe = record.config["optimizer"]["name"], schedule["learning_rate"], schedule["batch_size"], record.epochs
    return [str(part) for part in recipe]


def _nlls(record: Record) -> Lines:
    return [f"{record.metrics[key]:.2f}" for key in ("val/nll", "test/nll")]


def precisions() -> Lines:
    """Training in bf16 and in fp32: test NLL, means over seeds; the difference is paired by seed."""
    rows = []
    for k in (5, 50):
        fp32, bf16 = (
            {record.seed: record.metrics["test/nll"] for _, record in runs("precision", k=k, precision=precision)}
            for precision in ("32", "bf16")
        )
        differences = [bf16[seed] - fp32[seed] for seed in fp32]
        nlls = [f"{statistics.fmean(nlls.values()):.2f}" for nlls in (fp32, bf16)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        rows.append([f"k={k}", *nlls, f"{statistics.fmean(differences):+.2f} ± {error:.2f}", str(len(differences))])
    return markdown_table(["", "fp32", "bf16", "difference", "seeds"], rows)


TABLES = (annealed, best, overfitted, binarized, objectives, defaults, minutes, precisions)


def figure() -> Figure:
    """Active units of one layer while it trains; validation NLL of three recipes in 20 epochs, and over six minutes."""
    drawn = Figure(figsize=(13, 3.2), layout="constrained")
    units, epochs, time = drawn.subplots(1, 3)
    one_layer = [run for run in runs("table1", model="one_layer", seed=0) if run[1].k in (1, 50)]
    for folder, record in [*one_layer, *runs("recipes", schedule="fast")]:
        label = f"{record.objective.upper()} k={record.k}, {record.epochs} epochs"
        _plot(units, folder, "epoch", "val/active_units/1", label, scale=1 / record.epochs)
    units.axvline(0.3, color="#777777", linestyle=":", label="the rate begins to fall")
    for folder, record in runs("recipes"):
        _plot(epochs, folder, "epoch", "val/nll", record.schedule)
    for folder, record in runs("minutes", _by_val_nll):
        label = f"{record.objective}, {record.schedule}, {' '.join(_recipe(record)[:2])}"
        _plot(time, folder, "minutes", "val/nll", label)
    epochs.set_xticks(range(0, 21, 5))
    units.set(xlabel="fraction of the epochs done", ylabel="active units, one layer", ylim=(0, None))
    epochs.set(xlabel="epochs, IWAE k=50, one layer", ylabel="validation NLL (nats)")
    time.set(xlabel="minutes of training, k=50, one layer", ylabel="validation NLL (nats)")
    for axes in (units, epochs, time):
        axes.legend(frameon=False, fontsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _plot(axes: Axes, folder: Path, x: str, y: str, label: str, scale: float = 1.0) -> None:
    points = [row for row in read_metrics(folder) if y in row]
    axes.plot([scale * row[x] for row in points], [row[y] for row in points], marker=".", label=label)


if __name__ == "__main__":
    for table in TABLES:
        print(f"{table.__doc__}\n", *table(), sep="\n", end="\n\n")
    if len(sys.argv) > 1:
        write_png(Path(sys.argv[1]), rendered(figure()))
