"""The table printed when a run ends or is measured again."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iwae_lab.console.tables import print_rows
from iwae_lab.evaluation import keys
from iwae_lab.runs.record import Record

__all__ = ["print_next", "print_record"]


def print_record(record: Record, folder: Path) -> None:
    """Print the metrics of a finished run, the time it took, and its folder."""
    metrics = record.metrics
    nll = metrics[keys.TEST_NLL]
    speed = f"{record.steps:,} steps in {record.train_seconds:.0f} s, {record.images_per_second:,.0f} images/s"
    rows = {
        "protocol": record.protocol,
        f"test NLL (L_{metrics[keys.TEST_NLL_K]})": f"{nll:.2f} ± {metrics[keys.TEST_NLL_SE]:.2f} nats",
        **_unreliable(metrics),
        **_annealed(metrics),
        **_gaps(metrics),
        "test ELBO": f"{metrics[keys.TEST_ELBO]:.2f} nats",
        **_active_units(metrics),
        **_active_only(metrics),
        "validation NLL": f"{metrics[keys.VAL_NLL]:.2f} nats",
        **_overfitting(metrics),
        **({"training": speed} if record.steps else {}),
    }
    print_rows(record.run_id, rows)
    print(f"{'folder:' if folder.is_dir() else 'weights:':<15} {folder}")
    if (folder / "figures").is_dir():
        print(f"pictures:       {folder / 'figures'}")


def print_next(record: Record, runs_dir: str) -> None:
    """Print the commands that a user may want after a single run in `runs_dir`."""
    print(f"compare runs:   python -m iwae_lab.compare {shlex.quote(runs_dir)}")
    if record.dataset == "mnist_5k":
        print("the full data:  python train.py dataset=mnist experiment=fast, with your other settings")


def _unreliable(metrics: dict[str, Any]) -> dict[str, str]:
    share = metrics.get(keys.TEST_PARETO)
    if share is None:
        return {}
    by = "AIS, below," if keys.AIS_NLL in metrics else "evaluation.ais.images=100 (minutes)"
    return {"Pareto k̂ above 0.7": f"{share:.1%} of images, where L_k misses something; {by} says how much"}


def _active_units(metrics: dict[str, Any]) -> dict[str, str]:
    counts = _sum(metrics[keys.TEST_ACTIVE_UNITS])
    if keys.TEST_ACTIVE_UNITS_LOW not in metrics:  # committed records of an earlier state
        return {"active units": counts}
    ends = zip(metrics[keys.TEST_ACTIVE_UNITS_LOW], metrics[keys.TEST_ACTIVE_UNITS_HIGH], strict=True)
    by_kl, authors = _sum(metrics[keys.TEST_UNITS_BY_KL]), _sum(metrics[keys.TEST_ACTIVE_UNITS_AUTHORS])
    return {
        "active units": f"{counts} (bootstrap, 95 %: {_sum(f'{low}–{high}' for low, high in ends)})",
        "counted otherwise": f"{by_kl} by KL, {authors} as the paper's authors count",
    }


def _sum(counts: Iterable[int | str]) -> str:
    return " + ".join(map(str, counts))


def _annealed(metrics: dict[str, Any]) -> dict[str, str]:
    if keys.AIS_NLL not in metrics:
        return {}
    n, k, chains = metrics[keys.AIS_IMAGES], metrics[keys.TEST_NLL_K], metrics[keys.AIS_CHAINS]
    gap = f"{metrics[keys.AIS_GAP]:.3f} ± {metrics[keys.AIS_GAP_SE]:.3f}"
    how = f"{chains} chains of {metrics[keys.AIS_TEMPERATURES]:,} temperatures"
    gain = f"{metrics[keys.AIS_GAIN]:.3f} ± {metrics[keys.AIS_GAIN_SE]:.3f}"
    moves = f"{metrics[keys.AIS_ESS]:.1f} effective chains"
    if metrics[keys.AIS_TEMPERATURES] > 1:  # else there are none
        moves += f", {metrics[keys.AIS_ACCEPTANCE]:.0%} of moves accepted"
    return {
        f"AIS NLL of {n} test images": f"{metrics[keys.AIS_NLL]:.2f} ± {metrics[keys.AIS_NLL_SE]:.2f} nats ({how})",
        f"−L_{k} of these images": f"{metrics[keys.AIS_SAMPLING_NLL]:.2f} nats, by AIS {gain} too high",
        f"AIS gap on {n} simulated images": f"{gap} nats; {moves}",
    }


def _gaps(metrics: dict[str, Any]) -> dict[str, str]:
    if keys.GAPS_K not in metrics:
        return {}
    approximation = f"{metrics[keys.GAPS_APPROXIMATION]:.2f} ± {metrics[keys.GAPS_APPROXIMATION_SE]:.2f}"
    amortization = f"{metrics[keys.GAPS_AMORTIZATION]:.2f} ± {metrics[keys.GAPS_AMORTIZATION_SE]:.2f}"
    log_p = f"L_{k}" if (k := metrics[keys.GAPS_K]) else "AIS"
    return {
        f"approximation gap of {metrics[keys.GAPS_IMAGES]} images": f"{approximation} nats (log p(x) by {log_p})",
        "amortization gap": f"{amortization} nats",
    }


def _overfitting(metrics: dict[str, Any]) -> dict[str, str]:
    if keys.OVERFITTING_K not in metrics:
        return {}
    how = f"L_{metrics[keys.OVERFITTING_K]}, {metrics[keys.OVERFITTING_IMAGES]:,} training images"
    gap = f"{metrics[keys.OVERFITTING_GAP]:.2f} ± {metrics[keys.OVERFITTING_GAP_SE]:.2f}"
    return {"test − train NLL": f"{gap} nats ({how})"}


def _active_only(metrics: dict[str, Any]) -> dict[str, str]:
    if keys.TEST_NLL_ACTIVE_ONLY_K not in metrics:
        return {}
    k = metrics[keys.TEST_NLL_ACTIVE_ONLY_K]
    whole = metrics.get(keys.nll_at(k), metrics[keys.TEST_NLL])
    without = metrics[keys.TEST_NLL_ACTIVE_ONLY]
    return {"NLL without inactive units": f"{without:.2f} nats (L_{k}; with them {whole:.2f})"}
