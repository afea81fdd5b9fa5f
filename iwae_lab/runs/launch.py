"""What a job learns from Hydra: its share of the cores, the name of its multirun, its working directory."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from iwae_lab.console.cores import available_cores
from iwae_lab.console.errors import UserError
from iwae_lab.runs.config import GROUPS

__all__ = ["check_launcher", "job_threads", "name_of", "prepare_job", "sweep_name"]


def job_threads() -> int:
    """CPU threads for this process: the available cores divided by the number of jobs that run at the same time."""
    cores = available_cores()
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return cores
    launcher = HydraConfig.get().launcher
    if jobs := launcher.get("n_jobs"):  # joblib; below zero counts from the number of cores
        return max(1, cores // (jobs if jobs > 0 else max(1, cores + 1 + jobs)))
    if launcher.get("cpus_per_task"):  # submitit
        return launcher.cpus_per_task
    return 1 if launcher._target_.endswith(".LocalLauncher") else cores  # submitit_local runs all jobs at once


def sweep_name() -> str | None:
    """The name of the multirun: that of its file in sweeps/, else its overrides; None in a single run."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    hydra = HydraConfig.get()
    if hydra.job.config_name != "config":
        return hydra.job.config_name
    multirun = OmegaConf.load(Path(hydra.runtime.output_dir) / "multirun.yaml")
    return name_of(multirun.hydra.overrides.task)


def name_of(overrides: Iterable[str]) -> str:
    """The sorted overrides; if they exceed W&B's limit for a group's name, cut short and followed by their hash."""
    name = " ".join(sorted(overrides))
    return name if len(name) <= 128 else f"{name[:119]} {hashlib.sha256(name.encode()).hexdigest()[:8]}"


def prepare_job() -> None:
    """Return to the directory of the command, which hydra.job.chdir=true leaves: paths are relative to it.

    Raises `UserError` for several options of one group, whose keys Hydra would merge.
    """
    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)
    for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        if override.key_or_group in GROUPS and isinstance(options := override.value(), list):
            listed = ",".join(map(str, options))
            group = override.key_or_group
            raise UserError(f"{group}=[{listed}]: expected one option; a multirun (-m) takes {group}={listed}")


def check_launcher(multirun: Path) -> None:
    """Raise `UserError` if the job's configuration names a launcher other than the one that launched it.

    This happens if an experiment file sets the launcher, which Hydra chooses before it reads that file. multirun: the
    configuration of the multirun as Hydra wrote it.
    """
    hydra = HydraConfig.get()
    if hydra.launcher._target_ != OmegaConf.load(multirun).hydra.launcher._target_:
        chosen = hydra.runtime.choices["hydra/launcher"]
        raise UserError(
            f"hydra/launcher={chosen}: expected on the command line, since Hydra does not see it in an experiment file"
        )
