"""The table shown when a run ends."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from iwae_lab.record import Record

__all__ = ["print_record"]


def print_record(record: Record, folder: Path) -> None:
    """Print the result of a finished run: what was measured, how long it took, and where it lies."""
    metrics = record.metrics
    table = Table(title=record.run_id, show_header=False, title_justify="left")
    speed = f"{record.steps:,} steps in {record.train_seconds:.0f} s, {record.images_per_second:,.0f} images/s"
    rows = {
        "protocol": record.protocol,
        f"test NLL (L_{metrics['test/nll_k']})": f"{metrics['test/nll']:.2f} ± {metrics['test/nll_se']:.2f} nats",
        "test ELBO": f"{metrics['test/elbo']:.2f} nats",
        "active units": " + ".join(map(str, metrics["test/active_units"])),
        "NLL without inactive units": f"{metrics['test/nll_active_only']:.2f} nats",
        "validation NLL": f"{metrics['val/nll']:.2f} nats",
        "training": speed,
        "folder": str(folder),
    }
    for label, value in rows.items():
        table.add_row(label, value)
    Console().print(table, soft_wrap=True)
