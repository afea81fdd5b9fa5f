"""comparison.html: one file that opens offline, with everything it shows inside it."""

import base64
import contextlib
import io
import json
import math
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from plotly.offline import get_plotlyjs

from iwae_lab.compare.report import format_units, legend
from iwae_lab.compare.runs import Run, training_curve
from iwae_lab.compare.tables import Cell, Row, Table
from iwae_lab.console.atomic import write_atomically
from iwae_lab.evaluation.keys import (
    AIS_IMAGES,
    EPOCH,
    GAPS_AMORTIZATION,
    GAPS_AMORTIZATION_SE,
    GAPS_APPROXIMATION,
    GAPS_APPROXIMATION_SE,
    TEST_ACTIVE_UNITS_AUTHORS,
    TEST_ELBO,
    TRAIN_BOUND,
    VAL_ACTIVE_UNITS,
    VAL_BOUND,
    VAL_NLL,
    log10_variances,
    tightness_of,
)

__all__ = ["write_page"]

MAX_GRIDS = 60  # runs whose grids are in a page, some 15 kB each
GRIDS = ("samples", "reconstructions", "interpolations", "traversals", "posteriors")
GRID_PIXELS = 300  # the width of ten 28×28 images and their frames, as they were drawn
MAX_CURVES = 500  # runs whose curves are in a page, some 2 kB each
CURVE_POINTS = 100
_COLUMNS = ("model", "objective", "k")  # of the page's table of runs
CURVES = (VAL_BOUND, TRAIN_BOUND, VAL_NLL)


def write_page(path: Path, tables: list[Table], notes: list[str]) -> None:
    """Write the page: sortable tables, plots, pictures; the data, the code and plotly are inlined."""
    data = {
        "created": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "legend": [*legend(tables), *_left_out(sum(len(table.runs) for table in tables))],
        "notes": notes,
        "tables": _tables(tables),
    }
    parts = resources.files("iwae_lab.compare")
    page = (parts / "page.html").read_text("utf-8")
    inlined = {
        "/* page.css */": (parts / "page.css").read_text("utf-8"),
        "/* page.js */": (parts / "page.js").read_text("utf-8"),
        "/* data */": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        "/* plotly */": get_plotlyjs(),
    }
    for mark, content in inlined.items():
        page = page.replace(mark, content)
    write_atomically(path, page)


def _left_out(runs: int) -> list[str]:
    return [f"Training curves: {MAX_CURVES} of {runs} runs, one per cell first."] if runs > MAX_CURVES else []


def _tables(tables: list[Table]) -> list[dict[str, Any]]:
    cells = [cell for table in tables for cell in table.cells]
    shown = [run for cell in cells for run in cell.runs[:1]] + [run for cell in cells for run in cell.runs[1:]]
    with_curves = {run.record.run_id for run in shown[:MAX_CURVES]}
    with_grid = {run.record.run_id for run in shown[: min(MAX_GRIDS, len(cells))]}
    return [
        {
            "protocol": table.protocol,
            "by": table.by,
            "columns": table.columns,
            "rows": [_row(row) for row in table.rows],
            "runs": [
                {
                    "row": index,
                    "column": column,
                    "differs": row.settings + ([] if table.by in _COLUMNS else [f"{table.by}={column}"]),
                    **_run(run),
                    "curves": _curves(run.folder) if run.record.run_id in with_curves else {},
                    "grids": _grids(run) if run.record.run_id in with_grid else {},
                }
                for index, row in enumerate(table.rows)
                for column, cell in row.own_cells.items()
                for run in cell.runs
            ],
        }
        for table in tables
    ]


def _row(row: Row) -> dict[str, Any]:
    cells = {column: _cell(cell) for column, cell in row.cells.items()}
    return {"model": row.model, "objective": row.objective, "setting": row.settings, "cells": cells}


def _cell(cell: Cell) -> dict[str, Any]:
    paper = cell.paper
    return {
        "nll": _number(cell.nll),
        "se": _number(cell.se),
        "seeds": len(cell.runs),
        "units": format_units(cell.active_units),
        "total": sum(cell.active_units),
        "best": cell.best,
        "borrowed": cell.borrowed,
        "paper": paper and {**vars(paper), "units": format_units(paper.active_units)},
        "difference": cell.minus_paper,
        "lowest": cell.minus_lowest,
        "gap": cell.train_gap,
        "encoder": cell.encoder_gaps,
    }


def _run(run: Run) -> dict[str, Any]:
    record, metrics = run.record, run.record.metrics
    return {
        "id": record.run_id,
        "model": record.model,
        "objective": record.objective,
        "k": record.k,
        "seed": record.seed,
        "nll": _number(run.nll),
        "se": _number(run.nll_se),
        "elbo": _number(metrics.get(TEST_ELBO)),
        "val": _number(metrics.get(VAL_NLL)),
        "units": format_units(run.active_units),
        "active": run.active_units,
        "total": sum(run.active_units),
        "epochs": record.epochs,
        "minutes": round(record.train_seconds / 60, 1),
        "tightness": [[k, _number(nll), _number(se)] for k, nll, se in tightness_of(metrics)],
        "ais": run.nll_by_ais and [*map(_number, run.nll_by_ais), metrics[AIS_IMAGES]],
        "approximation": _with_error(metrics, GAPS_APPROXIMATION, GAPS_APPROXIMATION_SE),
        "amortization": _with_error(metrics, GAPS_AMORTIZATION, GAPS_AMORTIZATION_SE),
        "authors": metrics.get(TEST_ACTIVE_UNITS_AUTHORS, []),
        "variances": [[round(log, 2) for log in layer] for layer in log10_variances(metrics)],
    }


def _number(value: float | None) -> float | None:
    """JSON has no NaN: null stands for it. More digits than are shown, as rounding twice may differ from once."""
    return round(value, 8) if value is not None and math.isfinite(value) else None


def _with_error(metrics: dict[str, Any], key: str, error: str) -> list[float | None] | None:
    return [_number(metrics[key]), _number(metrics.get(error))] if key in metrics else None


def _curves(folder: Path) -> dict[str, list[list[float]]]:
    """[epochs, values] of each metric in a run's metrics.csv, thinned out; active units are summed over layers."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in training_curve(folder):
        if EPOCH not in row:
            continue
        for key in CURVES:
            if key in row:
                points.setdefault(key, []).append((row[EPOCH], row[key]))
        units = [value for key, value in row.items() if key.startswith(f"{VAL_ACTIVE_UNITS}/")]
        if units:
            points.setdefault(VAL_ACTIVE_UNITS, []).append((row[EPOCH], sum(units)))
    curves = {}
    for key, found in points.items():
        kept = [point for point in _thin(found) if math.isfinite(point[1])]
        curves[key] = [[done for done, _ in kept], [round(value, 3) for _, value in kept]]
    return curves


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """About CURVE_POINTS points, dense at first, then evenly spaced, up to the last."""
    n = len(points)
    if n <= CURVE_POINTS:
        return points
    half = CURVE_POINTS // 2
    wanted = {round(n ** (i / half)) - 1 for i in range(half + 1)} | {i * (n - 1) // half for i in range(half + 1)}
    return [points[i] for i in sorted(wanted)]


def _grids(run: Run) -> dict[str, str]:
    """The grids of images that a run has, by name, as data URIs, small and in 16 greys."""
    paths = {name: run.folder / "figures" / f"{name}.png" for name in GRIDS}
    pictures = {}
    for name, path in paths.items():
        with contextlib.suppress(OSError):  # there is none, or it is truncated
            pictures[name] = _picture(path)
    return pictures


def _picture(path: Path) -> str:
    with Image.open(path) as image:
        small = image.convert("L")
        small.thumbnail((GRID_PIXELS, 3 * GRID_PIXELS), Image.Resampling.BOX)
    packed = io.BytesIO()
    ImageOps.posterize(small, 4).save(packed, "PNG")
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()
