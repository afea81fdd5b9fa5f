"""Weights & Biases: online with credentials, offline without, and its failures never affect the run."""

import contextlib
import json
import logging
import math
import os
import secrets
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from PIL.Image import Image

from iwae_lab.console.atomic import write_atomically
from iwae_lab.console.errors import UserError, require
from iwae_lab.evaluation.keys import TEST, TEST_UNIT_VARIANCES, TRAIN_BOUND, TRAIN_LOSS, VAL_BOUND, VAL_NLL, numbers
from iwae_lab.loggers.base import RunLogger
from iwae_lab.loggers.remote import Remote, RemoteError
from iwae_lab.loggers.wandb_agent import DESCRIPTIVE, OVERRIDES
from iwae_lab.runs.record import Record

__all__ = ["WandB"]

log = logging.getLogger(__name__)

CLIENT = Path(__file__).with_name("wandb_client.py")
MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
SUMMARIES = {TRAIN_LOSS: min, VAL_NLL: min, TRAIN_BOUND: max, VAL_BOUND: max}
MARGIN = 30.0  # seconds for W&B's own limit to take effect, before its process is killed
GRACE = 5.0  # seconds for that process to end once the run is finished


class WandB(RunLogger):
    """One W&B run with an id of its own, named after the run; its files are in the run's folder, under wandb/.

    Online with credentials, offline without, never asking; WANDB_MODE and the user's W&B settings win. W&B runs in a
    process of its own: if that fails or hangs, one line says so and the run continues without it.

    wandb.json in the run's folder lists its W&B runs: a resumed run continues the one in the same project, and is
    given the epochs that W&B lacks. Under W&B's sweep agent, the id is the agent's.

    project, entity: as in `wandb.init`; None leaves them to W&B's own environment variables. tags: added to
    $WANDB_TAGS. upload_checkpoint: keep last.ckpt as an artifact. init_timeout: seconds to wait for the server
    before the run goes offline. finish_timeout: seconds to wait at the end for uploads. W&B's process is killed
    half a minute after either.
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
        group: str | None = None,
    ) -> None:
        super().__init__(folder=folder, record=record, group=group)
        if (mode := os.environ.get("WANDB_MODE", "online")) not in MODES:
            raise UserError(f"WANDB_MODE={mode}: expected one of {', '.join(MODES)}; logger=none does without trackers")
        self.project = project or os.environ.get("WANDB_PROJECT", "iwae_lab")
        self.entity = entity or os.environ.get("WANDB_ENTITY")
        given = [*os.environ.get("WANDB_TAGS", "").split(","), *(tags or [])]
        tags = [tag.strip()[:64] for tag in (*given, record.dataset, record.model, record.objective)]  # W&B's limit
        self.tags = [tag for tag in dict.fromkeys(tags) if tag]
        self.upload_checkpoint = upload_checkpoint
        for key, seconds in (("init_timeout", init_timeout), ("finish_timeout", finish_timeout)):
            require(key, seconds, 0 < seconds < math.inf, "a number of seconds above 0")
        self.init_timeout = init_timeout
        self.finish_timeout = finish_timeout
        self.remote: Remote | None = None
        self.figures: dict[str, Image] = {}
        self.extremes: dict[str, float] = {}
        self.has_result = False

    def holds_result(self) -> bool:
        if "WANDB_SWEEP_ID" in os.environ:
            return False  # the agent waits for it in any case
        return self.runs().get(self.known_id() or "", {}).get("finished", False)

    def runs(self) -> dict[str, dict[str, Any]]:
        """The W&B runs of this folder by id: where each is, and whether it has the result."""
        try:
            noted = json.loads((self.folder / "wandb.json").read_text("utf-8"))
            return {key: run for key, run in noted.items() if run.keys() == {"destination", "finished"}}
        except (OSError, ValueError, AttributeError):  # none yet, or not written by us
            return {}

    def known_id(self) -> str | None:
        """The id to use: the sweep agent's, else that of the latest W&B run in the same project, else none yet."""
        if "WANDB_SWEEP_ID" in os.environ and (given := os.environ.get("WANDB_RUN_ID")):
            return given
        here = [key for key, run in self.runs().items() if run["destination"] == self.destination]
        return here[-1] if here else None

    @property
    def destination(self) -> str:
        return "/".join([os.environ.get("WANDB_BASE_URL", ""), self.entity or "", self.project])

    def start(self, rows: list[dict[str, float]]) -> None:
        if os.environ.get("WANDB_MODE") == "disabled":
            return
        known_id = self.known_id()
        self.id = known_id or secrets.token_hex(8)
        config = {key: getattr(self.record, key) for key in (*OVERRIDES, *DESCRIPTIVE) if key != "parameters"}
        if "WANDB_SWEEP_ID" in os.environ and HydraConfig.initialized():
            options = HydraConfig.get().runtime.choices  # the agent may give the config again, as overrides
            config = {key: value for key, value in config.items() if options.get(key, value) == value}
        arguments: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "id": self.id,
            "name": self.record.run_id,
            "group": os.environ.get("WANDB_RUN_GROUP") or self.group,
            "tags": self.tags,
            "config": config | {"parameters": self.record.config},
            "dir": str(self.folder),
            "resume": "allow" if rows or known_id in self.runs() else None,  # None overwrites
            "allow_val_change": True,  # versions and paths may differ when a run is resumed
        }
        settings = {
            "silent": True,
            "console": "off",
            "init_timeout": self.init_timeout,
            "finish_timeout": self.finish_timeout,
            "finish_timeout_raises": True,
            "x_stats_pid": os.getpid(),
        }
        kept = str(self.folder.parent.absolute() / ".wandb")  # no staged tables or logs in the user's home
        environment = {"WANDB_DATA_DIR": kept, "WANDB_CACHE_DIR": kept, "WANDB_PROGRAM": sys.argv[0]} | os.environ
        try:
            self.remote = Remote(CLIENT, sys.argv[1:], environment)
            started = self.remote.ask(
                "start",
                self.init_timeout + MARGIN,
                arguments=arguments,
                settings=settings,
                spare_id=secrets.token_hex(8),
                sessions=[str(path) for path in sorted(self.folder.glob(f"wandb/*run-*-{self.id}/*.wandb"))],
                summarized=list(SUMMARIES),
            )
        except (RemoteError, OSError, RuntimeError) as error:  # the latter two: no process or thread left
            self._give_up(error)
            return
        except BaseException:
            self._end()
            raise
        for note in started["notes"]:
            log.warning("W&B: %s", note)
        if started["mode"] == "disabled":
            self._end(GRACE)
            return
        self.session = Path(started["folder"])
        self.id = started["id"]
        self._note(finished=False)
        if started["mode"] == "offline":
            log.info("W&B: offline; `%s` uploads this run", self.sync_command)
        elif started["url"]:
            log.info("W&B: %s", started["url"])
        self.known_step = started["known_step"]
        self.replay(rows)

    @property
    def sync_command(self) -> str:
        """Uploads what W&B has in the run's folder and has not uploaded."""
        sessions = sorted(self.session.parent.glob(f"*run-*-{self.id}"))
        online = any(session.name.startswith("run-") for session in sessions)  # which sync skips unless told
        return shlex.join(["wandb", "sync", *(["--include-online"] if online else []), *map(str, sessions)])

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        for key in SUMMARIES.keys() & metrics.keys():
            value = metrics[key]
            self.extremes[key] = SUMMARIES[key](self.extremes.get(key, value), value)
        figures, self.figures = self.figures, {}
        if self.remote and step > self.known_step:  # a resumed run repeats the epochs after its checkpoint
            self._log(metrics | {"step": step}, figures)

    def log_figures(self, draw: Callable[[], dict[str, Image]], step: int) -> None:
        if self.remote and step > self.known_step:
            self.figures = draw()  # for one row with the metrics that follow

    def log_result(self, record: Record, figures: dict[str, Image]) -> None:
        measured = {key: value for key, value in numbers(record.metrics).items() if key.startswith(TEST)}
        self._log(
            measured | {"step": record.steps},
            figures,
            {TEST_UNIT_VARIANCES: _table(record.metrics[TEST_UNIT_VARIANCES])},
        )
        if self.upload_checkpoint:
            self._send("upload", file=str(self.folder / "checkpoints" / "last.ckpt"), name=record.run_id)
        self.has_result = True

    def close(self, failed: bool) -> None:
        if not self.remote:
            return
        status = {"status": "failed" if failed else "finished"}
        try:
            ended = self.remote.ask("finish", self.finish_timeout + MARGIN, summary=status, exit_code=int(failed))
            if self.remote.failure:
                raise RemoteError(self.remote.failure)
            self._end(GRACE)
        except RemoteError as error:
            self._give_up(error)
            return
        except BaseException:
            self._end()
            raise
        for note in ended["notes"]:
            log.warning("W&B: %s", note)
        if not ended["complete"]:
            log.warning("W&B: the server has not taken everything yet; `%s` uploads the rest", self.sync_command)
        self._note(finished=self.has_result and not failed)

    def _log(self, row: dict[str, Any], figures: dict[str, Image], tables: dict[str, str] | None = None) -> None:
        summary = {key: {SUMMARIES[key].__name__: value} for key, value in self.extremes.items()}
        figures = {f"figures/{name}": figure for name, figure in figures.items()}
        self._send("log", row=row, figures=figures, tables=tables or {}, summary=summary)

    def _send(self, name: str, /, **arguments: Any) -> None:
        if self.remote and self.remote.failure:
            self._give_up(self.remote.failure)
        if self.remote:
            self.remote.send(name, self.finish_timeout + MARGIN, **arguments)

    def _end(self, grace: float = 0.0) -> None:
        remote, self.remote = self.remote, None
        if remote:
            remote.end(grace)

    def _give_up(self, reason: object) -> None:
        self._end()
        log.warning("W&B: %s; the run continues without it; once it is finished, the same command uploads it", reason)

    def _note(self, finished: bool) -> None:
        """Record this W&B run in wandb.json, as the latest."""
        runs = {key: run for key, run in self.runs().items() if key != self.id}
        runs[self.id] = {"destination": self.destination, "finished": finished}
        with contextlib.suppress(OSError):  # a full disk: the next command begins a new W&B run
            write_atomically(self.folder / "wandb.json", json.dumps(runs, indent=2) + "\n")


def _table(variances: list[list[float]]) -> str:
    """One row per unit. Not a wandb.Table, which asks the server at once and fails without it."""
    rows = [
        f"<tr><td>{layer}<td>{unit}<td>{variance:.6f}"
        for layer, units in enumerate(variances, 1)
        for unit, variance in enumerate(units)
    ]
    return f"<table><tr><th>layer<th>unit<th>variance of the posterior mean{''.join(rows)}</table>"
