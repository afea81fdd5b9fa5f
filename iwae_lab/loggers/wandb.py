"""Weights & Biases: online where there are credentials, offline elsewhere, and nothing lost either way."""

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from PIL.Image import Image
from wandb.errors import CommError, UsageError

from iwae_lab.errors import UserError
from iwae_lab.loggers.base import RunLogger
from iwae_lab.record import Record, read_metrics
from iwae_lab.sweep import sweep_name

__all__ = ["WandB"]

log = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
LOWER_IS_BETTER = ("train/loss", "val/nll")
HIGHER_IS_BETTER = ("train/bound", "val/bound")
IDENTITY = ("dataset", "protocol", "model", "objective", "k", "schedule", "seed", "epochs", "binarization")


class WandB(RunLogger):
    """One W&B run, whose id is the run's; its files lie in the run's folder, under wandb/.

    Online where credentials exist and offline where not, never asking; WANDB_MODE wins. What metrics.csv
    holds of an interrupted run and W&B does not is logged again when the run goes on.

    project, entity, tags: as in `wandb.init`; None leaves them to W&B's own environment variables.
    upload_checkpoint: keep last.ckpt as an artifact. init_timeout: seconds to wait for the server before
    going on offline. finish_timeout: seconds to wait at the end for what is not yet uploaded.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        tags: list[str] | None = None,
        upload_checkpoint: bool = False,
        init_timeout: float = 30.0,
        finish_timeout: float = 60.0,
        *,
        folder: Path,
        record: Record,
    ) -> None:
        super().__init__(folder, record)
        if (mode := os.environ.get("WANDB_MODE", "online")) not in MODES:
            raise UserError(f"WANDB_MODE={mode}: expected one of {', '.join(MODES)}; logger=none does without trackers")
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # staged tables, logs: not in the user's home
            os.environ.setdefault(variable, str(folder.parent.absolute() / ".wandb"))
        self.upload_checkpoint = upload_checkpoint
        rows = read_metrics(folder)
        earlier = sorted(folder.glob("wandb/*run-*/*.wandb"))
        arguments: dict[str, Any] = {
            "project": project or os.environ.get("WANDB_PROJECT", "iwae_lab"),
            "entity": entity,
            "id": record.run_id,
            "name": record.run_id,
            "group": os.environ.get("WANDB_RUN_GROUP") or sweep_name(),
            "tags": [*(tags or []), record.dataset, record.model, record.objective],
            "config": {key: getattr(record, key) for key in IDENTITY} | {"parameters": record.config},
            "dir": folder,
            "resume": "allow" if rows or earlier else None,  # None begins anew, also where W&B knows the id
            "allow_val_change": True,  # versions and paths may differ when a run goes on
            "settings": wandb.Settings(
                silent=True,
                console="off",
                init_timeout=init_timeout,
                finish_timeout=finish_timeout,
                finish_timeout_raises=True,
            ),
        }
        self.run = _start(arguments)
        if self.run.offline:
            log.info("W&B: offline; `%s` uploads this run", self.sync_command)
        elif self.run.url:
            log.info("W&B: %s", self.run.url)
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        for key in LOWER_IS_BETTER:
            self.run.define_metric(key, step_metric="step", summary="min")
        for key in HIGHER_IS_BETTER:
            self.run.define_metric(key, step_metric="step", summary="max")
        self.known_step = -1
        if self.run.offline:
            self.known_step = _last_step(earlier)
        elif self.run.resumed:
            self.known_step = int(self.run.summary.get("step", -1))
        for row in rows:
            self.log_metrics(row, int(row["step"]))
        self.known_step = max([self.known_step, *(int(row["step"]) for row in rows)])

    @property
    def sync_command(self) -> str:
        """Uploads what W&B keeps in the run's folder and has not uploaded."""
        current = Path(self.run.settings.sync_dir)
        sessions = sorted(current.parent.glob("*run-*"))
        online = any(session.name.startswith("run-") for session in sessions)  # which sync skips unless told
        return shlex.join(["wandb", "sync", *(["--include-online"] if online else []), *map(str, sessions)])

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        if step <= self.known_step:
            return  # a run that goes on repeats the epochs after its checkpoint, with the same result
        self.run.log(metrics | {"step": step})

    def log_figures(self, draw: Callable[[], dict[str, Image]], step: int) -> None:
        if step > self.known_step:
            figures = {f"figures/{name}": wandb.Image(figure) for name, figure in draw().items()}
            self.run.log(figures, commit=False)  # one row with the metrics that follow

    def log_result(self) -> None:
        measured: dict[str, Any] = {"step": self.record.steps}
        for key, value in self.record.metrics.items():
            if not key.startswith("test/"):
                continue  # logged while training
            if not isinstance(value, list):
                measured[key] = value
            elif not isinstance(value[0], list):
                measured |= {f"{key}/{level}": entry for level, entry in enumerate(value, 1)}
        for picture in sorted((self.folder / "figures").glob("*.png")):
            measured[f"figures/{picture.stem}"] = wandb.Image(str(picture))
        measured["test/unit_variances"] = wandb.Html(_table(self.record.metrics["test/unit_variances"]))
        self.run.log(measured)
        if self.upload_checkpoint:
            artifact = wandb.Artifact(self.record.run_id, "model")
            artifact.add_file(str(self.folder / "checkpoints" / "last.ckpt"))
            try:
                self.run.log_artifact(artifact)
            except wandb.Error as error:
                log.warning("W&B: the checkpoint was not taken (%s)", " ".join(str(error).split()))

    def close(self, failed: bool) -> None:
        self.run.summary["status"] = "failed" if failed else "finished"
        try:
            self.run.finish(exit_code=int(failed))
        except TimeoutError:
            log.warning("W&B: the server has not taken everything yet; `%s` uploads the rest", self.sync_command)


def _start(arguments: dict[str, Any]) -> wandb.Run:
    """A W&B run in the mode that WANDB_MODE or, without it, the presence of credentials asks for."""
    mode: Any = os.environ.get("WANDB_MODE", "online")
    wandb.setup(wandb.Settings(silent=True))  # login has no such setting of its own
    with suppress(UsageError):  # a malformed key counts as none
        if mode != "online" or wandb.login(prompt=False, verify=False):
            try:
                return wandb.init(**arguments, mode=mode)
            except CommError as error:
                log.warning("W&B: the server can't be reached (%s); going on offline", " ".join(str(error).split()))
                wandb.teardown()  # its service would hold the failed run's id
    return wandb.init(**arguments, mode="offline")


def _last_step(sessions: list[Path]) -> int:
    """The last step in W&B's own files of a run; -1 without any."""
    steps = [-1]
    for path in sessions:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
            entry = json.loads(line)
            if entry["type"] == "history":
                steps.append(int(entry["history"]["item"]["step"]))
    return max(steps)


def _table(variances: list[list[float]]) -> str:
    """A row a unit. Not a wandb.Table, which asks the server at once and fails without it."""
    rows = [
        f"<tr><td>{layer}<td>{unit}<td>{variance:.6f}"
        for layer, units in enumerate(variances, 1)
        for unit, variance in enumerate(units)
    ]
    return f"<table><tr><th>layer<th>unit<th>variance of the posterior mean{''.join(rows)}</table>"
