"""comparison.png: results and, where measured, gradient SNR against the columns' key; validation NLL over training."""

import itertools
import math
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from iwae_lab.compare.runs import as_number, training_curve
from iwae_lab.compare.tables import Cell, Table
from iwae_lab.evaluation.keys import EPOCH, LOWEST, MINUTES, VAL_NLL, log10_variances, tightness_of

__all__ = ["draw"]

MAX_ROWS = 24  # per table: those with the lowest NLL
MAX_CURVES = 12
THRESHOLD = -2  # log₁₀ of the variance above which a unit is active
LABEL_WIDTH = 44  # characters per line
CAPTION = "Error bars: standard errors, over seeds if there are several, otherwise over test images. Hollow: the paper."
OF_ONE_SEED = " Below the results: the first seed of each cell."
_COLORS = ("#4477aa", "#cc3311", "#228833", "#aa3377", "#ee7733", "#009988", "#bbaa22", "#777777")
_MARKERS = ("o", "s", "^")
_LINES = ("-", ":", "--", "-.")


def draw(tables: list[Table]) -> Figure:
    """Rows of two plots for each protocol; hollow marks are the paper's.

    Test NLL and active units; where runs were diagnosed, the gradients' signal-to-noise ratio, θ and φ (Rainforth
    et al. 2018, arXiv 1802.04537); for up to `MAX_CURVES` cells, −L_k against k, corrected by AIS (dashed), and
    active units against the threshold, then validation NLL over epochs and minutes of training.
    """
    rows: list[tuple[Table, str, Callable[..., None]]] = []
    for full in tables:
        table = _lowest(full)
        title = table.protocol
        if len(table.rows) < len(full.rows):
            title += f", the {len(table.rows)} lowest of {len(full.rows)} rows"
        cells = table.cells
        rows.append((table, title, _draw_results))
        if any(cell.gradient_snr for cell in cells):
            rows.append((table, "", _draw_snrs))
        if len(cells) <= MAX_CURVES and any(len(_tightness(cell)) > 1 for cell in cells):
            rows.append((table, "", _draw_tightness))
        if len(cells) <= MAX_CURVES and any(_curve(cell) for cell in cells):
            rows.append((table, "", _draw_curves))
    of_one_seed = [draw_on in (_draw_tightness, _draw_curves) for *_, draw_on in rows]
    heights = [_height(table, curves) for (table, *_), curves in zip(rows, of_one_seed, strict=True)]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    figure.supxlabel(CAPTION + OF_ONE_SEED * any(of_one_seed), fontsize=8)
    grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    for (left, right), (table, title, draw_on) in zip(grid, rows, strict=True):
        left.set_title(title, loc="left", fontsize=10)
        draw_on(left, right, table, _styles(table))
        for axes in (left, right):
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def _height(table: Table, curves: bool) -> float:
    """Inches: room for the legend, or for the rows where they are named at the axis."""
    entries = [len(row.own_cells) if curves else 1 for row in table.rows]
    lines = sum(n * (style["label"].count("\n") + 1) for n, style in zip(entries, _styles(table), strict=True))
    return 1.1 + 0.25 * lines if _lying(table) and not curves else max(3.6, 1 + 0.17 * lines)


def _lying(table: Table) -> bool:
    """Whether no row has a line to draw, so that marks stand one below the other."""
    return all(len(row.cells) == 1 for row in table.rows)


def _lowest(table: Table) -> Table:
    """The table, or `MAX_ROWS` of its rows in their order."""
    by_nll = sorted(table.rows, key=lambda row: min(cell.nll for cell in row.cells.values()))[:MAX_ROWS]
    rows = [row for row in table.rows if any(row is kept for kept in by_nll)]
    columns = [column for column in table.columns if any(column in row.cells for row in rows)]
    return Table(table.protocol, table.by, columns, rows)


def _styles(table: Table) -> list[dict[str, Any]]:
    """Color, marker, line and label of each row."""
    models = sorted({row.model for row in table.rows})
    looks = itertools.cycle(itertools.product(range(len(_MARKERS)), _COLORS))
    look_of = dict(zip(dict.fromkeys(row.label for row in table.rows), looks, strict=False))
    return [
        {
            "color": look_of[row.label][1],
            "marker": _MARKERS[(look_of[row.label][0] + models.index(row.model)) % len(_MARKERS)],
            "linestyle": _LINES[models.index(row.model) % len(_LINES)],
            "label": textwrap.fill(row.label if len(models) == 1 else f"{row.label}, {row.model}", LABEL_WIDTH),
        }
        for row in table.rows
    ]


def _legend(axes: Axes, lines_of: Axes) -> None:
    axes.legend(
        *lines_of.get_legend_handles_labels(), frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )


def _draw_results(nll: Axes, units: Axes, table: Table, styles: list[dict[str, Any]]) -> None:
    def published(cell: Cell) -> tuple[float | None, float | None]:
        return (cell.paper.nll, sum(cell.paper.active_units)) if cell.paper else (None, None)

    _draw_cells((nll, units), table, styles, lambda cell: (cell.nll, sum(cell.active_units)), lambda cell: (cell.se, 0))
    _draw_cells(
        (nll, units),
        table,
        [style | {"linestyle": "none", "markerfacecolor": "none", "markersize": 8, "label": None} for style in styles],
        published,
    )
    _name_axes(nll, units, table, styles, ("test NLL (nats)", "active units, all layers"))
    _from_zero(units, table)


def _draw_snrs(generative: Axes, inference: Axes, table: Table, styles: list[dict[str, Any]]) -> None:
    plots = (generative, inference)
    _draw_cells(plots, table, styles, lambda cell: cell.gradient_snr or (None, None))
    _name_axes(*plots, table, styles, ("gradient SNR of θ", "gradient SNR of φ"))
    for axes in plots:
        _from_zero(axes, table)


def _draw_cells(
    plots: tuple[Axes, Axes],
    table: Table,
    styles: list[dict[str, Any]],
    values: Callable[[Cell], tuple[float | None, float | None]],
    errors: Callable[[Cell], tuple[float, float]] = lambda cell: (0, 0),
) -> None:
    """One line per row over the columns; where each row has a single cell, one mark per row, stacked."""
    x_of = _positions(table)
    for place, (row, style) in enumerate(zip(table.rows, styles, strict=True)):
        for part, axes in enumerate(plots):
            cells = [(x, row.cells[column]) for column, x in x_of.items() if column in row.cells]
            points = [
                (x, values(cell)[part], errors(cell)[part]) for x, cell in cells if values(cell)[part] is not None
            ]
            if not points:
                continue
            x, y, error = zip(*points, strict=True)
            look = {"capsize": 2, "markersize": 5} | style
            bars = error if any(error) else None
            if not _lying(table):
                axes.errorbar(x, y, yerr=bars, **look)
            else:
                axes.errorbar(y, [place] * len(y), xerr=bars, **look | {"linestyle": "none"})


def _name_axes(left: Axes, right: Axes, table: Table, styles: list[dict[str, Any]], names: tuple[str, str]) -> None:
    x_of = _positions(table)
    lying, several = _lying(table), len(x_of) > 1
    labels = [
        style["label"] + (f", {table.by}={next(iter(row.cells))}" if several else "")
        for row, style in zip(table.rows, styles, strict=True)
    ]
    for axes, name in zip((left, right), names, strict=True):
        if lying:
            axes.set_xlabel(name if several else f"{name}, {table.by}={table.columns[0]}")
            axes.set_ylim(len(table.rows) - 0.5, -0.5)
            axes.set_yticks(range(len(table.rows)), labels if axes is left else [], fontsize=8)
            continue
        if all(x > 0 for x in x_of.values()) and _numbers(table):
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(list(x_of.values()), list(x_of))
        axes.set_xlabel(table.by)
        axes.set_ylabel(name)
    if not lying:
        _legend(right, right)


def _from_zero(axes: Axes, table: Table) -> None:
    if _lying(table):
        axes.set_xlim(0, 1.08 * axes.get_xlim()[1])
    else:
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _numbers(table: Table) -> bool:
    return all(as_number(column) is not None for column in table.columns)


def _positions(table: Table) -> dict[str, float]:
    """Where each column lies: at its number, or one after the other."""
    if _numbers(table):
        return {column: as_number(column) or 0.0 for column in table.columns}
    return {column: float(position) for position, column in enumerate(table.columns)}


def _draw_tightness(nll: Axes, units: Axes, table: Table, styles: list[dict[str, Any]]) -> None:
    """The first run of each cell: −L_k against k, with AIS where measured; active units against the threshold."""
    for cell, look in _looks(table, styles):
        k, values, errors = zip(*_tightness(cell), strict=True)
        nll.errorbar(k, values, errors, capsize=2, **look)
        if by_ais := cell.runs[0].nll_by_ais:
            nll.axhline(by_ais[0], color=look["color"], alpha=look["alpha"], linestyle="--", linewidth=1)
        logs = sorted(itertools.chain(*log10_variances(cell.runs[0].record.metrics)))
        edges = [LOWEST, *logs, logs[-1] + 0.5]
        style = {key: look[key] for key in ("color", "alpha", "linestyle")}
        units.stairs(range(len(logs), -1, -1), edges, baseline=None, **style)
    nll.set_xscale("log")
    nll.set_xticks(*_ticks(table))
    nll.minorticks_off()
    annealed = any(cell.runs[0].nll_by_ais for cell in table.cells)
    nll.set_xlabel("samples k of the test NLL" + ("; dashed: corrected by AIS" if annealed else ""))
    nll.set_ylabel("test NLL (nats)")
    units.axvline(THRESHOLD, color="#777777", linestyle="--", linewidth=1)
    units.set_xlabel("log₁₀ threshold of the variance")
    units.set_ylabel("units above the threshold, all layers")
    units.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(units, nll)


def _ticks(table: Table) -> tuple[list[int], list[str]]:
    ks = {k for cell in table.cells for k, _, _ in _tightness(cell)}
    return sorted(ks), [str(k) for k in sorted(ks)]


def _tightness(cell: Cell) -> list[tuple[int, float, float]]:
    return tightness_of(cell.runs[0].record.metrics)


def _looks(table: Table, styles: list[dict[str, Any]]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each cell and its line's look, which is fainter for columns further left."""
    for row, style in zip(table.rows, styles, strict=True):
        for column, cell in row.own_cells.items():
            position = (table.columns.index(column) + 1) / len(table.columns)
            label = style["label"] if len(table.columns) == 1 else f"{style['label']}, {table.by}={column}"
            yield cell, style | {"label": label, "alpha": 0.3 + 0.7 * position, "markersize": 3}


def _draw_curves(epochs: Axes, minutes: Axes, table: Table, styles: list[dict[str, Any]]) -> None:
    """The first run of each cell."""
    for cell, look in _looks(table, styles):
        curve = _curve(cell)
        for axes, key in ((epochs, EPOCH), (minutes, MINUTES)):
            points = [(point[key], point[VAL_NLL]) for point in curve if key in point]
            if points:
                axes.plot([x for x, _ in points], [nll for _, nll in points], **look)
    for axes, name in ((epochs, "epochs"), (minutes, "minutes of training")):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.set_ylabel("validation NLL (nats)")
        if not axes.lines:
            axes.set_axis_off()  # no curve has this column
    _legend(minutes, epochs)


def _curve(cell: Cell) -> list[dict[str, float]]:
    return [row for row in training_curve(cell.runs[0].folder) if math.isfinite(row.get(VAL_NLL, math.nan))]
