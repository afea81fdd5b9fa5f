"""W&B's client for one run, in a process of its own; `iwae_lab.loggers.wandb` starts it and calls it through `Remote`.

It imports nothing of ours and ends when its stdin ends, or when a call takes longer than its limit.
"""

import faulthandler
import json
import os
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

DELETED = "previously created and deleted"  # W&B's message for an id that it never takes again


class Client:
    """Methods are called by name; what they raise is sent back as one line."""

    def __init__(self) -> None:
        self.run: wandb.Run | None = None
        self.notes: list[str] = []
        """warnings, sent with the next result"""

    def start(
        self,
        arguments: dict[str, Any],
        settings: dict[str, Any],
        spare_id: str,
        sessions: list[str],
        summarized: list[str],
    ) -> dict[str, Any]:
        """Start the run in the mode of the user's settings, offline where there are no credentials or no server.

        arguments: for `wandb.init`. spare_id: the id to take if W&B has deleted the run. sessions: its earlier .wandb
        files. summarized: metrics whose summary `log` receives instead of W&B making it.
        Returns mode, id, url, folder, known_step (the last one W&B has, else -1) and notes.
        """
        import wandb
        from wandb.errors import CommError

        mode: Any = wandb.setup(wandb.Settings(silent=True)).settings.mode
        if mode == "disabled":
            return {"mode": mode, "notes": []}
        if mode == "online":
            try:
                if not wandb.login(prompt=False, verify=False):
                    mode = "offline"
            except wandb.Error as error:  # a malformed key
                mode = "offline"
                self.notes.append(f"{_one_line(error)} The run is offline.")

        def init(mode: Any) -> "wandb.Run":
            return wandb.init(**arguments, mode=mode, settings=wandb.Settings(**settings))

        try:
            try:
                self.run = init(mode)
            except CommError as error:
                if DELETED not in str(error):
                    raise
                arguments |= {"id": spare_id, "resume": None}
                wandb.teardown()
                self.run = init(mode)
        except CommError as error:
            self.notes.append(f"the server can't be reached ({_one_line(error)}); the run is offline")
            wandb.teardown()  # its service would hold the failed run's id
            self.run = init("offline")
        known_step = -1
        if self.run.offline:
            known_step = _last_step(sessions)
        elif self.run.resumed:
            known_step = int(self.run.summary.get("step", -1))
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")
        for key in summarized:
            self.run.define_metric(key, step_metric="step", summary="none")
        return {
            "mode": "offline" if self.run.offline else "online",
            "id": self.run.id,
            "url": self.run.url,
            "folder": self.run.settings.sync_dir,
            "known_step": known_step,
            "notes": self._told(),
        }

    def log(
        self, row: dict[str, Any], figures: dict[str, Any], tables: dict[str, str], summary: dict[str, Any]
    ) -> None:
        """Log numbers, PIL images and HTML tables as one row, and update the run's summary."""
        import wandb

        assert self.run
        images = {name: wandb.Image(figure) for name, figure in figures.items()}
        self.run.log(row | images | {name: wandb.Html(table) for name, table in tables.items()})
        self.run.summary.update(summary)

    def upload(self, file: str, name: str) -> None:
        """Keep a file as an artifact."""
        import wandb

        assert self.run
        artifact = wandb.Artifact(name, "model")
        artifact.add_file(file)
        try:
            self.run.log_artifact(artifact)
        except wandb.Error as error:
            self.notes.append(f"the checkpoint was not taken ({_one_line(error)})")

    def finish(self, summary: dict[str, Any], exit_code: int) -> dict[str, Any]:
        """End the run. Returns complete (False if the server lacks something) and notes."""
        assert self.run
        run, self.run = self.run, None
        run.summary.update(summary)
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            return {"complete": False, "notes": self._told()}
        return {"complete": True, "notes": self._told()}

    def abandon(self) -> None:
        """End a run whose process was killed."""
        if self.run:
            self.finish({"status": "failed"}, 1)

    def _told(self) -> list[str]:
        notes, self.notes = self.notes, []
        return notes


def _last_step(sessions: list[str]) -> int:
    """The last step in W&B's own files of a run; -1 without any."""
    steps = [-1]
    for path in sessions:
        command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", path]
        for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
            entry = json.loads(line)
            if entry["type"] == "history":
                steps.append(int(entry["history"]["item"]["step"]))
    return max(steps)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the process that started this one decides when it ends
        signal.signal(number, signal.SIG_IGN)
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = open(os.devnull, "r+")  # noqa: SIM115  open until the end, for the watchdog's traceback
    for descriptor in (0, 1):  # which W&B's service inherits, and could hold open
        os.dup2(null.fileno(), descriptor)
    client, limit = Client(), 60.0
    while True:
        try:
            name, arguments, limit = pickle.load(calls)
        except (EOFError, pickle.UnpicklingError):
            break
        faulthandler.dump_traceback_later(limit, exit=True, file=null)
        try:
            answer: tuple[str | None, Any] = None, getattr(client, name)(**arguments)
        except BaseException as error:
            answer = f"{type(error).__name__}: {_one_line(error)}", None
        faulthandler.cancel_dump_traceback_later()
        try:
            pickle.dump(answer, answers)
            answers.flush()
        except OSError:
            break
    faulthandler.dump_traceback_later(limit, exit=True, file=null)
    client.abandon()


if __name__ == "__main__":
    main()
