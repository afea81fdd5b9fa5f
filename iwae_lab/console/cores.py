"""How many CPU threads this process may use."""

import contextlib
import math
import os
from pathlib import Path

__all__ = ["available_cores"]


def available_cores(root: Path = Path("/")) -> int:
    """The smallest of: cores in this process's affinity, OMP_NUM_THREADS, and its control groups' CPU quotas.

    Quotas are rounded down. root: the file system's, with proc/self/cgroup and sys/fs/cgroup below it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is for nested levels
    limits = [int(wanted)] if wanted.isdecimal() else []
    limits += [math.floor(quota) for quota in _quotas(root)]
    return max(1, min([cores, *limits]))


def _quotas(root: Path) -> list[float]:
    """The quotas, in cores, of this process's control groups and of all groups above them."""
    quotas = []
    for folder in _groups(root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()  # version 2; "max" is none
            quotas.append(int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:  # version 1; -1 is none
                quotas.append(int(quota) / int(period))
    return quotas


def _groups(root: Path) -> list[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = top / path.lstrip("/")  # in a container perhaps the host's path, which is not there
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]
    return folders
