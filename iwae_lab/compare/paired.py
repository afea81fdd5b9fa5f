"""Differences of two runs on the same test images, with paired standard errors."""

import math
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from iwae_lab.compare.runs import Run
from iwae_lab.evaluation.keys import TEST_NLL_K

__all__ = ["Difference", "paired_difference"]


class Difference(NamedTuple):
    """The difference of two test NLLs, nats."""

    nll: float
    se: float
    """standard error of the mean difference over images"""


def paired_difference(run: Run, other: Run) -> Difference | None:
    """NLL of `run` minus that of `other`; None unless both have per_image.npz for the same k and the same images.

    The runs must be under one protocol, which fixes the test images, their binarization and their order.
    """
    if run.record.metrics[TEST_NLL_K] != other.record.metrics[TEST_NLL_K]:
        return None
    bounds, others = _bounds(run), _bounds(other)
    if bounds is None or others is None or len(bounds) != len(others) or len(bounds) < 2:
        return None
    differences = others - bounds
    return Difference(float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences)))


def _bounds(run: Run) -> Any:
    """L̂_k of each test image [images], nats; None if there is no such file or it doesn't match the record."""
    bounds = _read(run.folder / "per_image.npz", f"bound_{run.record.metrics[TEST_NLL_K]}")
    agrees = bounds is not None and math.isclose(-bounds.mean(), run.nll, rel_tol=1e-6)
    return bounds if agrees else None


@lru_cache(maxsize=32)
def _read(path: Path, name: str) -> Any:
    if not path.is_file():
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
