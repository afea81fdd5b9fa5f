"""A W&B-protocol server on loopback, and what it holds. openwandb is a program of its own, never imported."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import requests

OPENWANDB = os.environ.get("IWAE_LAB_OPENWANDB") or shutil.which("openwandb")


class Server:
    """Started on entering; `stop` and `start` again keep its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "local" + 40 * "0"}

    def start(self) -> Self:
        assert OPENWANDB
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.folder)]
        self.process = subprocess.Popen(
            [OPENWANDB, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder.parent
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self.get("projects/default/none/runs")
                return self
            except requests.ConnectionError:
                time.sleep(0.2)
        raise TimeoutError(f"openwandb did not start on {self.url}")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def get(self, path: str) -> Any:
        login = requests.post(
            f"{self.url}/api/v2/auth/login", json={"username": "admin", "password": "admin123"}, timeout=10
        )
        token = {"Authorization": f"Bearer {login.json()['token']}"}
        return requests.get(f"{self.url}/api/v2/{path}", headers=token, timeout=10).json()

    def runs(self, project: str) -> dict[str, dict[str, Any]]:
        """By run id: state, config, summary, …"""
        return {run["run_id"]: run for run in self.get(f"projects/default/{project}/runs").get("runs", [])}

    def history(self, run_id: str, key: str) -> list[float]:
        """In the order of W&B's steps; of two points at one, which W&B would not keep apart, the later."""
        points = self.get(f"runs/{run_id}/metrics")["metrics_by_key"].get(key, [])
        latest = {point["step"]: point["value"] for point in points}
        return [latest[step] for step in sorted(latest)]

    def files(self, project: str, run_id: str) -> list[str]:
        """Names of the media it holds of a run."""
        return [path.name for path in (self.folder / "files" / "default" / project / run_id / "media").rglob("*.*")]
