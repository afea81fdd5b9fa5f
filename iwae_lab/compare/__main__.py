"""The command line of the comparison: `python -m iwae_lab.compare --help`."""

import argparse
from pathlib import Path

from iwae_lab.compare.report import print_tables, write_csv, write_markdown
from iwae_lab.compare.runs import find_runs, select
from iwae_lab.compare.tables import make_tables, not_compared
from iwae_lab.console.atomic import writable
from iwae_lab.console.errors import UserError
from iwae_lab.console.explain import one_line_errors


def main() -> None:
    """Read records, print tables, and write files where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m iwae_lab.compare", description="Compare runs by their records, one table per protocol."
    )
    parser.add_argument(
        "directories", nargs="*", type=Path, default=[Path("runs")], metavar="DIR", help="default: runs"
    )
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE[,VALUE]",
        help="only these runs: objective=iwae,dreg k=50 schedule.epochs=20",
    )
    parser.add_argument("--by", default="k", metavar="KEY", help="what the columns are; default: k")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write comparison.md, .csv, .png and .html there")
    parser.add_argument("--workspace", metavar="ENTITY/PROJECT", help="also save a W&B workspace for each protocol")
    with one_line_errors():
        _compare(parser.parse_args())


def _compare(arguments: argparse.Namespace) -> None:
    out: Path | None = arguments.out
    if out and not writable(out):
        raise UserError(f"--out {out}: expected a directory that can be written")
    found = find_runs(arguments.directories)
    runs = select(found.runs, arguments.where)
    tables = make_tables(runs, arguments.by)
    notes = not_compared(runs) + found.notes
    print_tables(tables, notes)
    if out:
        from iwae_lab.compare.figure import draw
        from iwae_lab.compare.page import write_page
        from iwae_lab.console.images import rendered, write_png

        write_markdown(out / "comparison.md", tables, notes)
        write_csv(out / "comparison.csv", tables)
        if tables:
            write_png(out / "comparison.png", rendered(draw(tables)))
        write_page(out / "comparison.html", tables, notes)
        print(f"written: {out / 'comparison'}.{{{'md,csv,png,html' if tables else 'md,csv,html'}}}")
    if arguments.workspace:
        from iwae_lab.compare.workspace import save_workspaces

        for url in save_workspaces(arguments.workspace, tables, chosen=bool(arguments.where)):
            print(f"saved: {url}")


if __name__ == "__main__":
    main()
