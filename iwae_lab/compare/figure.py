"""comparison.png: NLL, active units and, where measured, the gradients' SNR against the columns' key."""

import itertools
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iwae_lab.compare.runs import as_number
from iwae_lab.compare.tables import Row, Table

__all__ = ["draw"]

_COLORS = ("#4477aa", "#cc3311", "#228833", "#aa3377", "#ee7733", "#009988", "#bbaa22", "#777777")
_MARKERS = ("o", "s", "^", "D", "v")


def draw(tables: list[Table]) -> Figure:
    """A row of two plots for each protocol, and a second one where runs were diagnosed; hollow marks are the paper's.

    The second is of the gradients' signal-to-noise ratio, θ and φ (Rainforth et al. 2018, arXiv 1802.04537).
    """
    rows = [(table, snr) for table in tables for snr in (False, True) if not snr or _has_snr(table)]
    figure = Figure(figsize=(12, 3.6 * len(rows)), layout="constrained")
    for axes, (table, snr) in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
        _draw_table(axes[0], axes[1], table, snr)
    return figure


def _has_snr(table: Table) -> bool:
    return any(cell.gradient_snr for row in table.rows for cell in row.cells.values())


def _draw_table(left: Axes, right: Axes, table: Table, snr: bool) -> None:
    numbers = [as_number(column) for column in table.columns]
    x_of = dict(_positions(table.columns, numbers))
    models = sorted({row.model for row in table.rows})
    colors = dict(zip(dict.fromkeys(row.label for row in table.rows), itertools.cycle(_COLORS), strict=False))
    draw_row = _draw_snr if snr else _draw_row
    for row in table.rows:
        marker, line = _MARKERS[models.index(row.model) % len(_MARKERS)], "-" if row.model == models[0] else ":"
        label = row.label if len(models) == 1 else f"{row.label}, {row.model}"
        draw_row(
            left, right, row, x_of, {"color": colors[row.label], "marker": marker, "linestyle": line, "label": label}
        )
    names = ("gradient SNR of θ", "gradient SNR of φ") if snr else ("test NLL (nats)", "active units, all layers")
    for axes, name in zip((left, right), names, strict=True):
        if all(number is not None and number > 0 for number in numbers):
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(list(x_of.values()), list(x_of))
        axes.set_xlabel(table.by)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_title(table.protocol, loc="left", fontsize=10)
    for axes in (left, right) if snr else (right,):
        axes.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _positions(columns: list[str], numbers: list[float | None]) -> list[tuple[str, float]]:
    """Where each column lies on the axis: at its number, or one after the other."""
    if any(number is None for number in numbers):
        return [(column, float(position)) for position, column in enumerate(columns)]
    return [(column, number or 0.0) for column, number in zip(columns, numbers, strict=True)]


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
