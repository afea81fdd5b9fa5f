"""Records as a data frame."""

import logging
from pathlib import Path
from typing import Any

from iwae_lab.compare.runs import find_runs
from iwae_lab.evaluation.keys import numbers

__all__ = ["load_all"]

log = logging.getLogger(__name__)


def load_all(*directories: str | Path) -> Any:
    """Every run below the directories: a pandas DataFrame, one row per run, or without pandas a list of records.

    The columns are the record's fields, the metrics (of layers as KEY/1, KEY/2, …), and the settings under dotted keys;
    the index is the run's folder. Warns of what is left out: unreadable runs and copies. Raises `UserError` if there is
    no run.
    """
    found = find_runs([Path(directory) for directory in directories])
    for note in found.notes:
        log.warning("left out: %s", note)
    runs = found.runs
    try:
        import pandas as pd  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return [run.record for run in runs]
    rows = []
    for run in runs:
        fields = {key: value for key, value in vars(run.record).items() if not isinstance(value, dict)}
        rows.append(run.setting | fields | numbers(run.record.metrics))
    return pd.DataFrame(rows, index=pd.Index([str(run.folder) for run in runs], name="folder"))
