"""comparison.png: results and, where measured, gradient SNR against the columns' key; validation NLL over training."""

import itertools
import math
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from iwae_lab.compare.runs import as_number
from iwae_lab.compare.tables import Cell, Row, Table
from iwae_lab.evaluation.keys import EPOCH, MINUTES, VAL_NLL
from iwae_lab.runs.record import read_metrics

__all__ = ["draw"]

MAX_CURVES = 12
_COLORS = ("#4477aa", "#cc3311", "#228833", "#aa3377", "#ee7733", "#009988", "#bbaa22", "#777777")
_MARKERS = ("o", "s", "^", "D", "v")


def draw(tables: list[Table]) -> Figure:
    """Rows of two plots for each protocol; hollow marks are the paper's.

    Test NLL and active units; where runs were diagnosed, the gradients' signal-to-noise ratio, θ and φ (Rainforth
    et al. 2018, arXiv 1802.04537); of up to `MAX_CURVES` cells, validation NLL over epochs and minutes of training.
    """
    rows: list[tuple[Table, Callable[..., None]]] = []
    for table in tables:
        cells = [cell for row in table.rows for cell in row.own_cells.values()]
        rows.append((table, _draw_results))
        if any(cell.gradient_snr for cell in cells):
            rows.append((table, _draw_snrs))
        if len(cells) <= MAX_CURVES and any(_curve(cell) for cell in cells):
            rows.append((table, _draw_curves))
    figure = Figure(figsize=(12, 3.6 * len(rows)), layout="constrained")
    for (left, right), (table, draw_on) in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
        draw_on(left, right, table, _styles(table))
        left.set_title(table.protocol, loc="left", fontsize=10)
        right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        for axes in (left, right):
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def _styles(table: Table) -> list[dict[str, Any]]:
    """Color, marker, line and label of each row."""
    models = sorted({row.model for row in table.rows})
    colors = dict(zip(dict.fromkeys(row.label for row in table.rows), itertools.cycle(_COLORS), strict=False))
    return [
        {
            "color": colors[row.label],
            "marker": _MARKERS[models.index(row.model) % len(_MARKERS)],
            "linestyle": "-" if row.model == models[0] else ":",
            "label": row.label if len(models) == 1 else f"{row.label}, {row.model}",
        }
        for row in table.rows
    ]


def _draw_results(nll: Axes, units: Axes, table: Table, styles: list[dict[str, Any]]) -> None:
    x_of = _columns_axis((nll, units), table)
    for row, style in zip(table.rows, styles, strict=True):
        _draw_row(nll, units, row, x_of, style)
    nll.set_ylabel("test NLL (nats)")
    units.set_ylabel("active units, all layers")
    units.set_ylim(bottom=0)


def _draw_snrs(generative: Axes, inference: Axes, table: Table, styles: list[dict[str, Any]]) -> None:
    x_of = _columns_axis((generative, inference), table)
    for row, style in zip(table.rows, styles, strict=True):
        _draw_snr(generative, inference, row, x_of, style)
    for axes, name in ((generative, "θ"), (inference, "φ")):
        axes.set_ylabel(f"gradient SNR of {name}")
        axes.set_ylim(bottom=0)


def _draw_curves(epochs: Axes, minutes: Axes, table: Table, styles: list[dict[str, Any]]) -> None:
    """The first run of each cell; the fainter, the further to the left its column."""
    for row, style in zip(table.rows, styles, strict=True):
        for column, cell in row.own_cells.items():
            position = (table.columns.index(column) + 1) / len(table.columns)
            label = style["label"] if len(table.columns) == 1 else f"{style['label']}, {table.by}={column}"
            curve = _curve(cell)
            for axes, key in ((epochs, EPOCH), (minutes, MINUTES)):
                points = [(point[key], point[VAL_NLL]) for point in curve if key in point]
                look = style | {"label": label, "alpha": 0.3 + 0.7 * position, "markersize": 3}
                axes.plot([x for x, _ in points], [nll for _, nll in points], **look)
    for axes, name in ((epochs, "epochs"), (minutes, "minutes of training")):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.set_ylabel("validation NLL (nats)")


def _curve(cell: Cell) -> list[dict[str, float]]:
    return [row for row in read_metrics(cell.runs[0].folder) if math.isfinite(row.get(VAL_NLL, math.nan))]


def _columns_axis(plots: tuple[Axes, Axes], table: Table) -> dict[str, float]:
    """Where each column lies on the plots' axes: at its number, or one after the other."""
    numbers = [as_number(column) for column in table.columns]
    if any(number is None for number in numbers):
        x_of = {column: float(position) for position, column in enumerate(table.columns)}
    else:
        x_of = {column: number or 0.0 for column, number in zip(table.columns, numbers, strict=True)}
    for axes in plots:
        if all(number is not None and number > 0 for number in numbers):
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(list(x_of.values()), list(x_of))
        axes.set_xlabel(table.by)
    return x_of


def _draw_row(nll: Axes, units: Axes, row: Row, x_of: dict[str, float], style: dict[str, Any]) -> None:
    columns = [column for column in x_of if column in row.cells]
    cells = [row.cells[column] for column in columns]
    x = [x_of[column] for column in columns]
    nll.errorbar(x, [cell.nll for cell in cells], [cell.se for cell in cells], capsize=2, markersize=5, **style)
    units.plot(x, [sum(cell.active_units) for cell in cells], markersize=5, **style)
    hollow: dict[str, Any] = {
        "color": style["color"],
        "marker": style["marker"],
        "linestyle": "none",
        "markerfacecolor": "none",
    }
    papers = [(position, cell.paper) for position, cell in zip(x, cells, strict=True) if cell.paper]
    if papers:
        x = [position for position, _ in papers]
        nll.plot(x, [paper.nll for _, paper in papers], markersize=8, **hollow)
        units.plot(x, [sum(paper.active_units) for _, paper in papers], markersize=8, **hollow)


def _draw_snr(generative: Axes, inference: Axes, row: Row, x_of: dict[str, float], style: dict[str, Any]) -> None:
    cells = [(x, row.cells[column].gradient_snr) for column, x in x_of.items() if column in row.cells]
    for part, axes in enumerate((generative, inference)):
        points = [(x, snr[part]) for x, snr in cells if snr]
        axes.plot([x for x, _ in points], [snr for _, snr in points], markersize=5, **style)
