"""What sweeps/README.md shows beside the tables of iwae_lab.compare: python sweeps/page.py [FIGURE.png]"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from iwae_lab.compare.report import format_units
from iwae_lab.console.images import rendered, write_png
from iwae_lab.runs.record import Record, read_metrics, read_record

RECORDS = Path(__file__).parent / "records"
ORDER = ("vae", "iwae")

Lines = list[str]


def runs(table: str, **wanted: object) -> Iterator[tuple[Path, Record]]:
    """The folders and records of a table whose record has the values wanted, in the order of the paper's tables."""
    records = [(path.parent, read_record(path.parent)) for path in RECORDS.glob(f"{table}/*/result.json")]
    for folder, record in sorted(records, key=lambda run: _place(run[1])):
        if all(getattr(record, key) == value for key, value in wanted.items()):
            yield folder, record


def _place(record: Record) -> tuple[str, int, int, str]:
    return record.model, ORDER.index(record.objective), record.k, record.schedule


def name(record: Record) -> str:
    return f"{record.model}, {record.objective.upper()} k={record.k}"


def markdown(head: Lines, rows: list[Lines]) -> Lines:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def evaluations() -> Iterator[tuple[Record, dict[str, Any]]]:
    for folder, record in runs("table1"):
        if (folder / "evaluation.json").exists():
            yield record, json.loads((folder / "evaluation.json").read_text())


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
    return markdown(["", "−L_5000", "−AIS", "AIS adds", "bidirectional gap", "NLL of all images − AIS gain"], rows)


def overfitted() -> Lines:
    """NLL of training and test images, and units as this project and as the paper's authors count them."""
    rows = []
    for record, measured in evaluations():
        train, test = measured["overfitting/train"], measured["overfitting/test"]
        units = format_units(record.metrics["test/active_units"]), format_units(measured["test/active_units_authors"])
        rows.append([name(record), f"{train:.2f}", f"{test:.2f}", f"{test - train:.2f}", *units])
    return markdown(["", "train", "test", "gap", "active units", "as the authors count"], rows)


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
    return markdown(["", "−train/bound", "−val/bound", "gap", "test NLL", "active units"], rows)


def objectives() -> Lines:
    """After 12 epochs of mnist_5k, with about ten evaluations of p(x, z) per image, ordered by validation NLL."""
    records = [read_record(path.parent) for path in RECORDS.glob("objectives/*/result.json")]
    rows = [
        [f"`{r.objective}`", str(r.k), f"{r.metrics['val/nll']:.2f}", format_units(r.metrics["test/active_units"])]
        for r in sorted(records, key=lambda record: record.metrics["val/nll"])
    ]
    return markdown(["objective", "k", "validation NLL", "active units"], rows)


def defaults() -> Lines:
    """The default recipe and what it was chosen from, ordered by validation NLL."""
    records = [read_record(path.parent) for path in RECORDS.glob("default/*/result.json")]
    rows = []
    for record in sorted(records, key=lambda record: record.metrics["val/nll"]):
        schedule, optimizer = record.config["schedule"], record.config["optimizer"]["name"]
        recipe = (optimizer, schedule["learning_rate"], schedule["batch_size"], record.epochs)
        rows.append([*map(str, recipe), f"{record.metrics['val/nll']:.2f}", f"{record.metrics['test/nll']:.2f}"])
    return markdown(["optimizer", "rate", "batch", "epochs", "validation NLL", "test NLL"], rows)


def figure() -> Figure:
    """Active units of one layer while it trains, and validation NLL of three recipes in 20 epochs each."""
    drawn = Figure(figsize=(9, 3), layout="constrained")
    units, nll = drawn.subplots(1, 2)
    shown = [
        (run, f"{name(run[1])}, 200 epochs") for run in runs("table1", model="one_layer", seed=0) if run[1].k in (1, 50)
    ]
    shown += [(run, f"{name(run[1])}, 20 epochs") for run in runs("recipes", schedule="fast")]
    for (folder, record), label in shown:
        points = [row for row in read_metrics(folder) if "val/nll" in row]
        progress = [row["epoch"] / record.epochs for row in points]
        units.plot(progress, [row["val/active_units/1"] for row in points], marker=".", label=label.partition(", ")[2])
    for folder, record in runs("recipes"):
        points = [row for row in read_metrics(folder) if "val/nll" in row]
        nll.plot(
            [row["epoch"] for row in points], [row["val/nll"] for row in points], marker=".", label=record.schedule
        )
    units.axvline(0.3, color="#777777", linestyle=":", label="the rate begins to fall")
    nll.set_xticks(range(0, 21, 5))
    units.set(xlabel="fraction of the epochs done", ylabel="active units, one layer", ylim=(0, None))
    nll.set(xlabel="epochs, IWAE k=50, one layer", ylabel="validation NLL (nats)")
    for axes in (units, nll):
        axes.legend(frameon=False, fontsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


if __name__ == "__main__":
    for table in (annealed, overfitted, binarized, objectives, defaults):
        print(f"{table.__doc__}\n", *table(), sep="\n", end="\n\n")
    if len(sys.argv) > 1:
        write_png(Path(sys.argv[1]), rendered(figure()))
