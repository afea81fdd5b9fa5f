"""Workspaces for W&B, up to the hosted service: what they hold, and how they are sent."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT
from helpers.records import make_run

from iwae_lab.compare.runs import find_runs
from iwae_lab.compare.tables import make_tables

pytest.importorskip("wandb_workspaces", reason="needs the extra workspace")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces")


class Stub(BaseHTTPRequestHandler):
    """Answers the few GraphQL requests that saving a view makes, and keeps what was to be saved."""

    saved: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/graphql" and "upsertView" in (request := json.loads(body))["query"]:
            self.saved.append(request["variables"])
        view = {"view": {"id": "1", "name": "nw-abc-v"}, "inserted": True}
        viewer = {"id": "1", "entity": "team", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        answer = json.dumps({"data": {"viewer": viewer, "upsertView": view}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        """Not to stderr."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    handler = type("Handler", (Stub,), {"saved": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{stub.server_port}", handler.saved
        stub.shutdown()


def compare(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path), **environment}
    command = [sys.executable, "-m", "iwae_lab.compare", str(tmp_path / "runs"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("by, key", [("k", "k.value"), ("schedule.epochs", "parameters.value.schedule.epochs")])
def test_a_workspace_holds_the_runs_of_a_table_grouped_alike(tmp_path, by, key, chosen):
    from iwae_lab.compare.workspace import make_workspace

    run = make_run(tmp_path, model="two_layer").name
    table = make_tables(find_runs([tmp_path]).runs, by)[0]
    view = make_workspace("team", "vaes", table, chosen)._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True))
    runs = spec["section"]["runSets"][0]
    assert [group["name"] for group in runs["grouping"]] == ["model.value", "objective.value", key]
    assert '"mnist/dynamic"' in json.dumps(runs["filters"])
    by_run_id = {"key": {"section": "config", "name": "run_id"}, "op": "IN", "value": [run]}
    assert any(by_run_id.items() <= entry.items() for entry in runs["filters"]["filters"]) == chosen
    panels = json.dumps(spec["section"]["panelBankConfig"])
    for metric in ("test/nll", "test/active_units/2", "val/bound", "val/nll", "figures/samples", f"config:{key}"):
        assert metric in panels


def test_each_protocol_s_workspace_is_saved(tmp_path, server):
    address, saved = server
    for protocol in ("mnist/dynamic", "mnist#ab12cd34/dynamic 4000/500/100 L_100"):
        make_run(tmp_path / "runs", protocol=protocol, seed=len(protocol))
    done = compare(tmp_path, "--workspace", "team/vaes", WANDB_BASE_URL=address, WANDB_API_KEY="local" + 40 * "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"saved: {address}/team/vaes") == 2
    names = ["mnist/dynamic", "mnist#ab12cd34/dynamic 4000/500/100 L_100"]
    assert [view["displayName"] for view in saved] == [f"comparison {name}" for name in names]
    for view, name in zip(saved, names, strict=True):
        assert (view["entityName"], view["projectName"]) == ("team", "vaes")
        assert f'"{name}"' in json.dumps(json.loads(view["spec"])["section"]["runSets"][0]["filters"])


@pytest.mark.parametrize(
    "path, expected", [("project", "expected ENTITY/PROJECT"), ("team/vaes", "expected credentials of W&B")]
)
def test_a_workspace_needs_a_project_and_credentials(tmp_path, path, expected):
    make_run(tmp_path / "runs")
    done = compare(tmp_path, "--workspace", path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and expected in done.stderr
