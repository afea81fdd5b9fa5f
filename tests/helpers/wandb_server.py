"""A W&B-protocol server on loopback, and what it holds. openwandb is a program of its own, never imported."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import requests

OPENWANDB = os.environ.get("IWAE_LAB_OPENWANDB") or shutil.which("openwandb")


STAND_IN = '''
"""In W&B's place: keeps nothing, fails where $FAULT says, "KIND in PLACE", and writes its process id to $PID_FILE."""

import ctypes
import os
import sys
import time
import types
from pathlib import Path

Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))


def pass_through(place):
    kind, _, there = os.environ["FAULT"].partition(" in ")
    if place != there:
        return
    if kind == "raise":
        raise RuntimeError("no luck")
    if kind == "interrupt":
        raise KeyboardInterrupt("no luck")
    if kind == "exit":
        os._exit(3)
    if kind == "hang":
        while True:
            time.sleep(1)
    if kind == "hold":
        ctypes.PyDLL(None).sleep(1000)  # without giving up the interpreter's lock


class Error(Exception):
    pass


class Run:
    offline, resumed, url = True, False, None
    settings = types.SimpleNamespace(sync_dir=".")

    def __init__(self, id):
        self.id = id
        self.summary = {}

    def define_metric(self, *arguments, **more):
        pass

    def log(self, row):
        pass_through("log")

    def finish(self, exit_code):
        pass_through("finish")


def init(**arguments):
    pass_through("init")
    return Run(arguments["id"])


def setup(settings):
    return types.SimpleNamespace(settings=types.SimpleNamespace(mode="offline"))


Settings = Image = Html = dict
sys.modules["wandb.errors"] = types.SimpleNamespace(CommError=Error)
pass_through("import")
'''


class Server:
    """Started on entering; `stop` and `start` again keep its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self.token: str | None = None

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
                self.get("api/v2/projects/default/none/runs")
                return self
            except requests.ConnectionError:
                time.sleep(0.2)
        raise TimeoutError(f"openwandb did not start on {self.url}")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = self.token = None

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """As its administrator."""
        if self.token is None:
            account = {"username": "admin", "password": "admin123"}
            self.token = requests.post(f"{self.url}/api/v2/auth/login", json=account, timeout=60).json()["token"]
        token = {"Authorization": f"Bearer {self.token}"}
        return requests.request(method, f"{self.url}/{path}", headers=token, timeout=60, **arguments)

    def get(self, path: str) -> Any:
        return self.request("GET", path).json()

    def publish(self, project: str) -> None:
        """Let anyone look at its pages."""
        (found,) = (entry for entry in self.get("api/v2/projects")["projects"] if entry["name"] == project)
        self.request("PUT", f"api/v2/projects/{found['id']}/visibility", json={"visibility": "public"})

    def runs(self, project: str) -> dict[str, dict[str, Any]]:
        """By run id: state, config, summary, …"""
        return {run["run_id"]: run for run in self.get(f"api/v2/projects/default/{project}/runs").get("runs", [])}

    def summary(self, project: str, run_id: str) -> dict[str, Any]:
        """Whole: what `runs` gives lacks entries that are dictionaries."""
        return self.get(f"files/default/{project}/{run_id}/wandb-summary.json")

    def history(self, run_id: str, key: str) -> list[float]:
        """In the order of W&B's steps; of two points at one, which W&B would not keep apart, the later."""
        points = self.get(f"api/v2/runs/{run_id}/metrics")["metrics_by_key"].get(key, [])
        latest = {point["step"]: point["value"] for point in points}
        return [latest[step] for step in sorted(latest)]

    def files(self, run_id: str) -> list[str]:
        """Paths of the media it holds of a run, which end in the session's step and a hash."""
        return [file["name"] for file in self.get(f"api/v1/runs/{run_id}/files")["files"] if "media/" in file["name"]]

    def drawn(self, run_id: str, name: str) -> int:
        """How often it holds the figure or table `name`."""
        return len({path for path in self.files(run_id) if f"/{name}_" in path})

    def artifacts(self, run_id: str) -> list[dict[str, Any]]:
        """type, name, size, …"""
        return self.get(f"api/v2/runs/{run_id}/artifacts")["artifacts"]


class Front:
    """Stands before a server that tells no client of a run's history (openwandb 0.5.25), and answers as W&B does.

    history: by run id, the lines that clients sent, each with the offset where they put it.
    deleted: ids of runs that W&B's users deleted, which it refuses for ever.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.history: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.deleted: set[str] = set()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, kind, content = front.pass_on(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def environment(self) -> dict[str, str]:
        return self.server.environment | {"WANDB_BASE_URL": f"http://127.0.0.1:{self.http.server_port}"}

    def __enter__(self) -> Self:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def pass_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        """The server's answer: status, content type, content."""
        if method == "POST" and (gone := self._refused(headers, body)):
            return gone
        kept = {key: value for key, value in headers.items() if key not in ("Host", "Accept-Encoding")}
        response = requests.request(method, self.server.url + path, data=body, headers=kept, timeout=30)
        content = response.content
        text = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        if path.endswith("/file_stream"):
            sent = json.loads(text).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            lines = self.history.setdefault(path.split("/")[-2], [])
            lines += [(offset, json.loads(line)) for offset, line in enumerate(sent["content"], sent["offset"])]
        elif b"RunResumeStatus" in text:
            answer = json.loads(content)
            if lines := self.history.get(json.loads(text)["variables"]["name"]):
                answer["data"]["model"]["bucket"] |= {
                    "historyLineCount": len(lines),
                    "historyTail": json.dumps([json.dumps(lines[-1][1])]),
                    "eventsTail": "[]",
                    "wandbConfig": '{"t": 1}',
                }
            content = json.dumps(answer).encode()
        return response.status_code, response.headers["Content-Type"], content

    def _refused(self, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes] | None:
        text = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        for run_id in self.deleted:
            if b"UpsertBucket" in text and run_id.encode() in text:
                message = f"run {run_id} was previously created and deleted; try a new run name"
                errors = {"errors": [{"message": message, "path": ["upsertBucket"]}], "data": {"upsertBucket": None}}
                return 409, "application/json", json.dumps(errors).encode()
        return None
