"""Results grouped into one table per protocol: rows of one setting, columns of one key, cells over seeds."""

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass

from iwae_lab.compare.paired import Difference, paired_difference
from iwae_lab.compare.paper import TABLE_1, Published, has_its_objective, published
from iwae_lab.compare.runs import PROTOCOL_KEYS, Run, differences, known_key, sort_key
from iwae_lab.console.errors import UserError

__all__ = ["Cell", "Row", "Table", "make_tables", "not_compared"]

_FIRST_OBJECTIVES = ("vae", "iwae")  # the rest by name


@dataclass
class Cell:
    """Runs that differ in nothing but their seed."""

    runs: list[Run]
    paper: Published | None
    best: bool = False
    """the lowest NLL of its model and k, by more than the standard error of its distance to the next"""
    minus_lowest: Difference | None = None
    """difference from the lowest of its model and k, if both are single runs with per-image values"""
    borrowed: bool = False
    """whether its runs are those of VAE with k = 1, the same objective as IWAE with k = 1"""

    @property
    def nll(self) -> float:
        """Mean test NLL, nats."""
        return statistics.fmean(run.nll for run in self.runs)

    @property
    def se(self) -> float:
        """Standard error of `nll`, nats: over seeds, or over test images where there is one seed."""
        if len(self.runs) == 1:
            return self.runs[0].nll_se
        return statistics.stdev(run.nll for run in self.runs) / math.sqrt(len(self.runs))

    @property
    def active_units(self) -> list[float]:
        """Mean count per stochastic layer, from the image upwards."""
        return [statistics.fmean(layer) for layer in zip(*(run.active_units for run in self.runs), strict=True)]

    @property
    def train_gap(self) -> tuple[float, float] | None:
        """Mean of test NLL less that of training images, and of its standard error over images, nats, where every run
        has them. More seeds don't lower the error, as all are measured on the same images.
        """
        return _mean_pair([run.train_gap for run in self.runs])

    @property
    def encoder_gaps(self) -> tuple[float, float] | None:
        """Mean approximation and amortization gap, nats, where every run has them."""
        return _mean_pair([run.encoder_gaps for run in self.runs])

    @property
    def gradient_snr(self) -> tuple[float, float] | None:
        """Mean signal-to-noise ratio of the gradients in θ and φ at the end, where every run was diagnosed."""
        return _mean_pair([run.gradient_snr for run in self.runs])

    @property
    def minus_paper(self) -> float | None:
        """`nll` minus the paper's, nats."""
        return None if self.paper is None else self.nll - self.paper.nll


@dataclass
class Row:
    """One objective, model, and setting."""

    model: str
    objective: str
    setting: dict[str, str]
    """further keys in which the rows of the table differ"""
    cells: dict[str, Cell]
    """by column"""

    @property
    def own_cells(self) -> dict[str, Cell]:
        """Cells that are not borrowed from another row."""
        return {column: cell for column, cell in self.cells.items() if not cell.borrowed}

    @property
    def settings(self) -> list[str]:
        """What sets the row apart, key=value each."""
        return [f"{key}={value}" for key, value in self.setting.items()]

    @property
    def label(self) -> str:
        """The objective and what sets the row apart."""
        return " ".join([self.objective, *self.settings])


@dataclass
class Table:
    """All results under one protocol."""

    protocol: str
    by: str
    columns: list[str]
    rows: list[Row]

    @property
    def cells(self) -> list[Cell]:
        """Every cell, once."""
        return [cell for row in self.rows for cell in row.own_cells.values()]

    @property
    def runs(self) -> list[Run]:
        """Every run in the table."""
        return [run for cell in self.cells for run in cell.runs]


def _mean_pair(pairs: list[tuple[float, float] | None]) -> tuple[float, float] | None:
    """Means of the first and of the second entries; None if any pair is None."""
    if None in pairs:
        return None
    first, second = zip(*filter(None, pairs), strict=True)
    return statistics.fmean(first), statistics.fmean(second)


def make_tables(runs: list[Run], by: str) -> list[Table]:
    """A table for each protocol of the measured runs, with a column for each value of the key `by`.

    Raises `UserError` if no run has the key, or if it would set unlike protocols side by side.
    """
    if PROTOCOL_KEYS.fullmatch(by):
        raise UserError(
            f"--by {by}: it would set unlike protocols side by side, whose NLLs are not comparable; "
            f"expected a key that may differ within a protocol, such as k or schedule.epochs"
        )
    by = known_key(runs, by, "--by ")
    protocols = defaultdict(list)
    for run in runs:
        if run.measured:
            protocols[run.record.protocol].append(run)

    def paper_first(item: tuple[str, list[Run]]) -> tuple[int, str]:
        return [*TABLE_1, item[0]].index(item[0]), item[0]

    return [_table(protocol, members, by) for protocol, members in sorted(protocols.items(), key=paper_first)]


def _table(protocol: str, runs: list[Run], by: str) -> Table:
    cells: dict[tuple[str, str, tuple[tuple[str, str], ...]], dict[str, list[Run]]] = {}
    for run, differs in zip(runs, differences(runs), strict=True):
        setting = tuple((key, value) for key, value in differs.items() if key not in (by, "model", "objective"))
        names = ["any" if key == by else run.facts[key] for key in ("model", "objective")]
        row_cells = cells.setdefault((names[0], names[1], setting), defaultdict(list))
        row_cells[run.facts.get(by, "absent")].append(run)

    def order(row: Row) -> tuple[str, int, str, list[tuple[bool, float, str]]]:
        rank = _FIRST_OBJECTIVES.index(row.objective) if row.objective in _FIRST_OBJECTIVES else 9
        return row.model, rank, row.objective, [sort_key(value) for value in row.setting.values()]

    rows = [
        Row(model, objective, dict(setting), {column: _cell(members) for column, members in row_cells.items()})
        for (model, objective, setting), row_cells in cells.items()
    ]
    rows.sort(key=order)
    columns = sorted({column for row in rows for column in row.cells}, key=sort_key)
    _mark_best([cell for row in rows for cell in row.cells.values()])
    if by == "k":
        _share_k1(rows)
    return Table(protocol, by, columns, rows)


def _cell(runs: list[Run]) -> Cell:
    return Cell(
        sorted(runs, key=lambda run: run.record.seed),
        published(runs[0].record, runs[0].record.objective, runs[0].first),
    )


def _share_k1(rows: list[Row]) -> None:
    """Where IWAE with k = 1 has no runs of its own, show those of VAE with k = 1."""
    vae = {(row.model, tuple(row.setting.items())): row.cells for row in rows if row.objective == "vae"}
    for row in rows:
        shared = vae.get((row.model, tuple(row.setting.items())), {}).get("1")
        if row.objective != "iwae" or "1" in row.cells or not shared:
            continue
        others = next(iter(row.cells.values())).runs
        if all(has_its_objective(run.record) for run in (shared.runs[0], others[0])):
            row.cells["1"] = Cell(shared.runs, published(shared.runs[0].record, "iwae"), borrowed=True)


def _mark_best(cells: list[Cell]) -> None:
    alike = defaultdict(list)
    for cell in cells:
        alike[cell.runs[0].record.model, cell.runs[0].record.k].append(cell)
    for rivals in alike.values():
        if len(rivals) > 1:
            lowest, *others = sorted(rivals, key=lambda cell: cell.nll)
            if len(lowest.runs) == 1:
                for cell in others:
                    if len(cell.runs) == 1:
                        cell.minus_lowest = paired_difference(cell.runs[0], lowest.runs[0])
            second = others[0]
            error = second.minus_lowest.se if second.minus_lowest else math.hypot(lowest.se, second.se)
            lowest.best = second.nll - lowest.nll > error


def not_compared(runs: list[Run]) -> list[str]:
    """One line for each kind of run that is in no table: how many, and which."""
    kinds = defaultdict(list)
    for run in runs:
        record = run.record
        if record.status in ("failed", "diverged"):
            kinds[record.status].append(f"{record.run_id} ({record.error})")
        elif record.status != "finished":
            kinds["running or killed" if record.status == "running" else record.status].append(record.run_id)
        elif not run.measured:
            kinds["finished without a finite test NLL"].append(record.run_id)
    return [f"{len(which)} {kind}: {', '.join(sorted(which))}" for kind, which in sorted(kinds.items())]
