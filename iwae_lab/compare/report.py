"""The tables as text: on the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from iwae_lab.compare.tables import Cell, Row, Table
from iwae_lab.console.atomic import write_atomically

__all__ = ["format_units", "legend", "markdown_table", "print_tables", "write_csv", "write_markdown"]

_LEGEND = (
    "Test NLL in nats, lower is better; ± its standard error: over the n seeds marked ×n, or, where there is one "
    "seed, over the test images (†), which says nothing about other seeds. [active units per layer, image first]."
)
_BOLD_LEGEND = (
    "Bold: lowest of its model and k, by more than the standard error of its distance to the next: paired where "
    "that is given, otherwise √(se₁² + se₂²), which with † is conservative, as both were measured on the same images."
)
_PAPER_LEGEND = (
    "paper: Burda et al. 2016 (arXiv 1509.00519v4), table 1, appendix or (init_from) section 5.2, one run per cell, "
    "and our value minus it."
)
_PAIRED_LEGEND = (
    "lowest: NLL minus the lowest of its model and k, ± the standard error of that difference, paired: taken over the "
    "differences of single test images (per_image.npz), as both runs were measured on the same ones."
)
_GAP_LEGEND = (
    "test−train: NLL of test images less that of training images, of at most 500 samples, nats, mean over seeds, ± the "
    "standard error over the images, which is the same with more seeds."
)
_LAYERS_LEGEND = (
    "Active units of the first of several layers depend on its scale, and count units that merely follow the layer "
    "above: don't compare them between models."
)
_ENCODER_LEGEND = (
    "approximation, amortization: what the family of q and sharing one encoder cost in the ELBO (Cremer et al. 2018), "
    "nats, mean over seeds, of some test images; errors are in the records."
)
_BORROWED_LEGEND = "‡: the runs of VAE with k = 1; as an objective, IWAE with k = 1 is the same."


def format_units(units: Sequence[float]) -> str:
    """26+7, or means over seeds as 26.5+7."""
    return "+".join(f"{round(count, 1):g}" for count in units)


def _result(cell: Cell) -> str:
    n = len(cell.runs)
    return f"{cell.nll:.2f} ± {cell.se:.2f}{'†' if n == 1 else f' ×{n}'}{'‡' if cell.borrowed else ''}"


def _beside(cell: Cell) -> list[str]:
    """What a cell's NLL is compared with, one line each."""
    lines = [f"paper {cell.paper.nll:.2f} {cell.minus_paper:+.2f}"] if cell.paper else []
    if lowest := cell.minus_lowest:
        lines.append(f"lowest {lowest.nll:+.2f} ± {lowest.se:.2f} paired")
    if gap := cell.train_gap:
        lines.append("test−train {:+.2f} ± {:.2f}".format(*gap))
    if gaps := cell.encoder_gaps:
        lines.append("approximation {:.2f}, amortization {:.2f}".format(*gaps))
    return lines


def legend(tables: list[Table]) -> list[str]:
    """What the numbers in the tables mean, one paragraph each."""
    cells = [cell for table in tables for row in table.rows for cell in row.cells.values()]
    shown = {
        _BOLD_LEGEND: any(cell.best for cell in cells),
        _LAYERS_LEGEND: any(len(cell.active_units) > 1 for cell in cells),
        _PAPER_LEGEND: any(cell.paper for cell in cells),
        _PAIRED_LEGEND: any(cell.minus_lowest for cell in cells),
        _GAP_LEGEND: any(cell.train_gap for cell in cells),
        _ENCODER_LEGEND: any(cell.encoder_gaps for cell in cells),
        _BORROWED_LEGEND: any(cell.borrowed for cell in cells),
    }
    return [_LEGEND, *(paragraph for paragraph, applies in shown.items() if applies)]


def print_tables(tables: list[Table], notes: list[str]) -> None:
    """Print the tables, what they mean, and `notes` on what is in none of them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # in a file or pipe, nothing is wrapped or cut
    for table in tables:
        count = "1 run" if len(table.runs) == 1 else f"{len(table.runs)} runs"
        console.print(Text(f"{table.protocol}  ({count})", style="italic"), soft_wrap=True)
        grid = RichTable(show_lines=True)
        grid.add_column("model")
        grid.add_column("objective")
        for column in table.columns:
            grid.add_column(f"{table.by}={column}", justify="right")
        for row in table.rows:
            grid.add_row(row.model, _styled_label(row), *(_styled(row.cells.get(column)) for column in table.columns))
        console.print(grid)
    for line in [*(legend(tables) if tables else []), *notes]:
        console.print(Text(line, style="dim"))


def _styled_label(row: Row) -> Text:
    return Text("\n").join([Text(row.objective), *(Text(setting, style="dim") for setting in row.settings)])


def _styled(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    result = (_result(cell), "bold" if cell.best else "")
    return Text.assemble(
        result, f"\n[{format_units(cell.active_units)}]", *((f"\n{line}", "dim") for line in _beside(cell))
    )


def write_markdown(path: Path, tables: list[Table], notes: list[str]) -> None:
    """Write the tables as Markdown."""
    lines = ["# Comparison", ""]
    for table in tables:
        head = ["model", "objective", *(f"{table.by}={column}" for column in table.columns)]
        rows = [
            [row.model, row.label, *(_markdown_cell(row.cells.get(column)) for column in table.columns)]
            for row in table.rows
        ]
        lines += [f"## {table.protocol}", "", *markdown_table(head, rows, left=2), ""]
    lines += [f"{line}\n" for line in legend(tables)] + [f"- {note}" for note in notes]
    write_atomically(path, "\n".join(lines).rstrip() + "\n")


def markdown_table(head: list[str], rows: list[list[str]], left: int = 1) -> list[str]:
    """The lines of a table in Markdown, whose columns after the first `left` are aligned to the right."""
    aligned = ["---"] * left + ["---:"] * (len(head) - left)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, aligned, *rows)]


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    result = f"**{_result(cell)}**" if cell.best else _result(cell)
    return "<br>".join([f"{result} [{format_units(cell.active_units)}]", *_beside(cell)])


def write_csv(path: Path, tables: list[Table]) -> None:
    """Write one line per cell of every table."""
    head = [
        *("protocol", "model", "objective", "setting", "by", "value", "nll", "nll_se", "nll_se_over", "seeds"),
        *("active_units", "best", "paper_nll", "paper_active_units", "minus_paper", "minus_lowest", "minus_lowest_se"),
        *("train_gap", "train_gap_se", "approximation_gap", "amortization_gap", "run_ids"),
    ]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(head)
    for table in tables:
        for row in table.rows:
            for column in table.columns:
                if cell := row.cells.get(column):
                    writer.writerow(_csv_line(table, row, column, cell))
    write_atomically(path, file.getvalue())


def _csv_line(table: Table, row: Row, column: str, cell: Cell) -> list[object]:
    paper, nothing = cell.paper, ("", "")
    return [
        table.protocol,
        row.model,
        row.objective,
        " ".join(row.settings),
        table.by,
        column,
        cell.nll,
        cell.se,
        "images" if len(cell.runs) == 1 else "seeds",
        len(cell.runs),
        format_units(cell.active_units),
        cell.best,
        paper.nll if paper else "",
        format_units(paper.active_units) if paper else "",
        cell.minus_paper if paper else "",
        *(cell.minus_lowest or nothing),
        *(cell.train_gap or nothing),
        *(cell.encoder_gaps or nothing),
        " ".join(run.record.run_id for run in cell.runs),
    ]
