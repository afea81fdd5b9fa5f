"""comparison.png: NLL and active units against the columns' key."""

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
    """A row of two plots for each protocol; hollow marks are the paper's."""
    figure = Figure(figsize=(12, 3.6 * len(tables)), layout="constrained")
    for axes, table in zip(figure.subplots(len(tables), 2, squeeze=False), tables, strict=True):
        _draw_table(axes[0], axes[1], table)
    return figure


def _draw_table(nll: Axes, units: Axes, table: Table) -> None:
    numbers = [as_number(column) for column in table.columns]
    x_of = dict(_positions(table.columns, numbers))
    models = sorted({row.model for row in table.rows})
    colors = dict(zip(dict.fromkeys(row.label for row in table.rows), itertools.cycle(_COLORS), strict=False))
    for row in table.rows:
        marker, line = _MARKERS[models.index(row.model) % len(_MARKERS)], "-" if row.model == models[0] else ":"
        label = row.label if len(models) == 1 else f"{row.label}, {row.model}"
        _draw_row(
            nll, units, row, x_of, {"color": colors[row.label], "marker": marker, "linestyle": line, "label": label}
        )
    for axes, name in ((nll, "test NLL (nats)"), (units, "active units, all layers")):
        if all(number is not None and number > 0 for number in numbers):
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(list(x_of.values()), list(x_of))
        axes.set_xlabel(table.by)
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    nll.set_title(table.protocol, loc="left", fontsize=10)
    units.set_ylim(bottom=0)
    units.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


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
