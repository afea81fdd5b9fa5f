"""The table shown when a run ends or is measured again."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iwae_lab.console.tables import print_rows
from iwae_lab.evaluation.keys import (
    AIS_ACCEPTANCE,
    AIS_CHAINS,
    AIS_ESS,
    AIS_GAIN,
    AIS_GAIN_SE,
    AIS_GAP,
    AIS_GAP_SE,
    AIS_IMAGES,
    AIS_NLL,
    AIS_NLL_SE,
    AIS_SAMPLING_NLL,
    AIS_TEMPERATURES,
    OVERFITTING_GAP,
    OVERFITTING_GAP_SE,
    OVERFITTING_IMAGES,
    OVERFITTING_K,
    TEST_ACTIVE_UNITS,
    TEST_ACTIVE_UNITS_AUTHORS,
    TEST_ACTIVE_UNITS_HIGH,
    TEST_ACTIVE_UNITS_LOW,
    TEST_ELBO,
    TEST_NLL,
    TEST_NLL_ACTIVE_ONLY,
    TEST_NLL_ACTIVE_ONLY_K,
    TEST_NLL_K,
    TEST_NLL_SE,
    TEST_PARETO,
    TEST_UNITS_BY_KL,
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
        **_annealed(metrics),
        "test ELBO": f"{metrics[TEST_ELBO]:.2f} nats",
        **_active_units(metrics),
        **_active_only(metrics),
        "validation NLL": f"{metrics[VAL_NLL]:.2f} nats",
        **_overfitting(metrics),
        **({"training": speed} if record.steps else {}),
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


def _active_units(metrics: dict[str, Any]) -> dict[str, str]:
    counts = _sum(metrics[TEST_ACTIVE_UNITS])
    if TEST_UNITS_BY_KL not in metrics:  # a record from before they were counted otherwise
        return {"active units": counts}
    ends = zip(metrics[TEST_ACTIVE_UNITS_LOW], metrics[TEST_ACTIVE_UNITS_HIGH], strict=True)
    by_kl, authors = _sum(metrics[TEST_UNITS_BY_KL]), _sum(metrics[TEST_ACTIVE_UNITS_AUTHORS])
    return {
        "active units": f"{counts} (bootstrap, 95 %: {_sum(f'{low}–{high}' for low, high in ends)})",
        "counted otherwise": f"{by_kl} by KL, {authors} as the paper's authors count",
    }


def _sum(counts: Iterable[int | str]) -> str:
    return " + ".join(map(str, counts))


def _annealed(metrics: dict[str, Any]) -> dict[str, str]:
    if AIS_NLL not in metrics:
        return {}
    n, k, chains = metrics[AIS_IMAGES], metrics[TEST_NLL_K], metrics[AIS_CHAINS]
    how = f"{chains} chains of {metrics[AIS_TEMPERATURES]:,} temperatures"
    gain = f"{metrics[AIS_GAIN]:.3f} ± {metrics[AIS_GAIN_SE]:.3f}"
    moves = f"{metrics[AIS_ESS]:.1f} effective chains, {metrics[AIS_ACCEPTANCE]:.0%} of moves accepted"
    return {
        f"AIS NLL of {n} test images": f"{metrics[AIS_NLL]:.2f} ± {metrics[AIS_NLL_SE]:.2f} nats ({how})",
        f"L_{k} of the same": f"{metrics[AIS_SAMPLING_NLL]:.2f} nats; AIS is better by {gain}",
        f"AIS gap on {n} simulated images": f"{metrics[AIS_GAP]:.3f} ± {metrics[AIS_GAP_SE]:.3f} nats; {moves}",
    }


def _overfitting(metrics: dict[str, Any]) -> dict[str, str]:
    if OVERFITTING_GAP not in metrics:
        return {}
    gap, how = metrics[OVERFITTING_GAP], f"L_{metrics[OVERFITTING_K]}, {metrics[OVERFITTING_IMAGES]:,} images each"
    return {"test − train NLL": f"{gap:.2f} ± {metrics[OVERFITTING_GAP_SE]:.2f} nats ({how})"}


def _active_only(metrics: dict[str, Any]) -> dict[str, str]:
    k = metrics.get(TEST_NLL_ACTIVE_ONLY_K, metrics[TEST_NLL_K])
    whole = metrics.get(nll_at(k), metrics[TEST_NLL])
    without = metrics[TEST_NLL_ACTIVE_ONLY]
    return {"NLL without inactive units": f"{without:.2f} nats (L_{k}; with them {whole:.2f})"}
