"""The table shown when a run ends or is measured again."""

from pathlib import Path
from typing import Any

from iwae_lab.console.tables import print_rows
from iwae_lab.evaluation.keys import (
    TEST_ACTIVE_UNITS,
    TEST_ELBO,
    TEST_NLL,
    TEST_NLL_ACTIVE_ONLY,
    TEST_NLL_ACTIVE_ONLY_K,
    TEST_NLL_K,
    TEST_NLL_SE,
    TEST_PARETO,
    VAL_NLL,
    nll_at,
)
from iwae_lab.runs.record import Record

__all__ = ["print_next", "print_record"]


def print_record(record: Record, folder: Path) -> None:
    """Print the result of a finished run: what was measured, how long it took, and where it lies."""
    metrics = record.metrics
    speed = f"{record.steps:,} steps in {record.train_seconds:.0f} s, {record.images_per_second:,.0f} images/s"
    rows = {
        "protocol": record.protocol,
        f"test NLL (L_{metrics[TEST_NLL_K]})": f"{metrics[TEST_NLL]:.2f} ± {metrics[TEST_NLL_SE]:.2f} nats",
        **_unreliable(metrics),
        "test ELBO": f"{metrics[TEST_ELBO]:.2f} nats",
        "active units": " + ".join(map(str, metrics[TEST_ACTIVE_UNITS])),
        **_active_only(metrics),
        "validation NLL": f"{metrics[VAL_NLL]:.2f} nats",
        "training": speed,
        "folder": str(folder),
        **({"pictures": str(folder / "figures")} if (folder / "figures").is_dir() else {}),
    }
    print_rows(record.run_id, rows)


def print_next(record: Record) -> None:
    """Print the commands that a user may want after a single run."""
    print(f"compare runs:   python -m iwae_lab.compare {record.config['runs_dir']}")
    if record.dataset == "mnist_5k":
        print("the full data:  python train.py dataset=mnist experiment=fast")


def _unreliable(metrics: dict[str, Any]) -> dict[str, str]:
    share = metrics.get(TEST_PARETO)
    return {} if share is None else {"Pareto k̂ above 0.7": f"{share:.1%} of images: weights too heavy-tailed to trust"}


def _active_only(metrics: dict[str, Any]) -> dict[str, str]:
    k = metrics.get(TEST_NLL_ACTIVE_ONLY_K, metrics[TEST_NLL_K])
    whole = metrics.get(nll_at(k), metrics[TEST_NLL])
    without = metrics[TEST_NLL_ACTIVE_ONLY]
    return {"NLL without inactive units": f"{without:.2f} nats (L_{k}; with them {whole:.2f})"}
