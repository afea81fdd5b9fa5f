"""Tables on the terminal."""

from rich.console import Console
from rich.table import Table

__all__ = ["print_rows"]


def print_rows(title: str, rows: dict[str, str]) -> None:
    """Print a table of labels and values."""
    table = Table("", "", title=title, show_header=False, title_justify="left")
    table.columns[1].overflow = "fold"  # where it is narrow, a long word continues on the next line
    for label, value in rows.items():
        table.add_row(label, value)
    Console().print(table, soft_wrap=True)
