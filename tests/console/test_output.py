"""No output decides a job's fate: narrow encodings, closed pipes, full disks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import ROOT, records
from omegaconf import DictConfig

from iwae_lab.console.output import Lossy, lossy_text
from iwae_lab.runs.run import run

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = f"set -o pipefail; {line.replace('python', sys.executable)}"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=os.environ | environment, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "environment"),
    [
        ("", {"PYTHONIOENCODING": "ascii"}),
        ("2>&1 | head -1", {"PYTHONUNBUFFERED": "1"}),
        pytest.param(">/dev/full 2>/dev/full", {}, marks=needs_full),
    ],
)
def test_a_run_finishes_whatever_becomes_of_its_output(
    redirection: str, environment: dict[str, str], tiny: list[str], tmp_path: Path
) -> None:
    done = shell(f"python train.py {' '.join(tiny)} schedule.epochs=1 {redirection}".replace("[", r"\["), **environment)
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "runs")
    assert (record["status"], record["error"]) == ("finished", None)
    if not redirection:
        assert f"{record['metrics']['test/nll']:.2f}".encode() in done.stdout
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "train.py --help",
        "-m iwae_lab.compare sweeps/records/table1",
        "-m iwae_lab.compare --help",
    ],
)
def test_every_command_can_be_read_in_part_and_in_ascii(command: str) -> None:
    done = shell(f"python {command} | head -1", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.slow
def test_an_error_is_told_in_ascii() -> None:
    done = shell("""python train.py "objective.name='ñandú'" >&-""", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: objective.name=?and?: expected a name") and done.stderr.count(b"\n") == 1


@needs_full
def test_a_full_disk_under_the_log_is_told_once(
    tiny: list[str], tmp_path: Path, composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("iwae_lab.console.logs.log.warning", lambda text, *values: said.append(text % values))
    cfg = composed(*tiny, "schedule.epochs=1")
    folder = tmp_path / "runs" / run(cfg).run_id
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {"status": "running"}))
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to(FULL)
    assert run(cfg).metrics == record["metrics"]
    assert said == [f"{folder / 'log.txt'}: No space left on device; some lines are lost"]


@needs_full
def test_what_a_full_disk_does_not_take_is_lost_and_known() -> None:
    file = Lossy(FULL, "w")
    text = lossy_text(file)
    assert text.write("a line\n") == 7
    text.close()
    assert file.lost is not None and "No space left" in str(file.lost)


def test_what_the_encoding_lacks_is_a_question_mark(tmp_path: Path) -> None:
    with lossy_text(Lossy(tmp_path / "out", "w"), "ascii") as text:
        text.write("81.70 ± 0.05 nats, k̂\n")
    assert (tmp_path / "out").read_bytes() == b"81.70 ? 0.05 nats, k?\n"
