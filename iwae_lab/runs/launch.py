"""What Hydra's launcher says of this job: its share of the cores, the name of its multirun, where it is."""

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
    """CPU threads for this process: the cores it may use, divided among the jobs that its launcher runs at a time."""
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
    """What a multirun is called: its file in sweeps/, else its overrides; None in a run of its own."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    hydra = HydraConfig.get()
    if hydra.job.config_name != "config":
        return hydra.job.config_name
    multirun = OmegaConf.load(Path(hydra.runtime.output_dir) / "multirun.yaml")
    return name_of(multirun.hydra.overrides.task)


def name_of(overrides: Iterable[str]) -> str:
    """The overrides in order; where they are longer than W&B lets a group's name be, cut short, with their hash."""
    name = " ".join(sorted(overrides))
    return name if len(name) <= 128 else f"{name[:119]} {hashlib.sha256(name.encode()).hexdigest()[:8]}"


def prepare_job() -> None:
    """Go where the command was given, which hydra.job.chdir=true has left: relative paths are from there.

    Raises `UserError` for several options of one group, of which Hydra would merge the keys.
    """
    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)
    for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        if override.key_or_group in GROUPS and isinstance(options := override.value(), list):
            listed = ",".join(map(str, options))
            group = override.key_or_group
            raise UserError(f"{group}=[{listed}]: expected one option; a multirun (-m) takes {group}={listed}")


def check_launcher(multirun: Path) -> None:
    """Raises `UserError` if the job's own configuration names another launcher than the one that launched it.

    multirun: what Hydra wrote of the multirun. It chooses a launcher before it reads the experiment of a job.
    """
    hydra = HydraConfig.get()
    if hydra.launcher._target_ != OmegaConf.load(multirun).hydra.launcher._target_:
        chosen = hydra.runtime.choices["hydra/launcher"]
        raise UserError(
            f"hydra/launcher={chosen}: expected on the command line, since Hydra does not see it in an experiment file"
        )
