"""Every command in a README runs, or is marked as one that takes long; what READMEs add to the package works."""

import os
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.commands import ROOT, Command
from helpers.datasets import images, npz
from omegaconf import OmegaConf

from iwae_lab.runs.config import CONF

NOT_OURS = {"runs", "build", "venv"}
READMES = sorted(
    path
    for path in ROOT.rglob("README.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    and path.relative_to(ROOT).parts[0] not in NOT_OURS
)
LONG = re.compile(r"\b(minutes|hours?|days|network)\b")
QUICK = [
    "logger=csv", "threads=1", "schedule.epochs=2", "schedule.batch_size=100",
    "evaluation.k=20", "evaluation.images=30",
]  # fmt: skip


class Documented(NamedTuple):
    readme: str
    line: str
    comment: str


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", readme.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> Iterator[Documented]:
    """Every command of every bash block, continued lines joined; what pip installs is there already."""
    for readme in READMES:
        for line in "".join(blocks(readme, "bash")).replace("\\\n", " ").splitlines():
            for part in line.partition("#")[0].split("&&"):
                if part.split()[:2] != ["pip", "install"]:
                    yield Documented(str(readme.relative_to(ROOT)), " ".join(part.split()), line.partition("#")[2])


COMMANDS = list({command.line: command for command in commands()}.values())
SHORT = [command for command in COMMANDS if not LONG.search(command.comment)]
COMPOSED = [command for command in COMMANDS if LONG.search(command.comment) and "train.py" in command.line]


def name(command: Documented) -> str:
    return f"{Path(command.readme).parent.name or 'root'}: {command.line}"


@pytest.fixture(scope="module")
def here(fork_server, tmp_path_factory) -> Path:
    """A folder with two runs, the sweeps, and the files that READMEs tell their reader to write."""
    folder = tmp_path_factory.mktemp("here")
    for shared in ("train.py", "conf", "sweeps"):
        (folder / shared).symlink_to(ROOT / shared)
    for group in ("objective", "model", "dataset"):
        readme = {"objective": "objectives", "model": "models", "dataset": "data"}[group]
        readme = ROOT / "iwae_lab" / readme / "README.md"
        code = next(block for block in blocks(readme, "python") if re.search(r"^class ", block, re.MULTILINE))
        (yaml,) = blocks(readme, "yaml")
        node = OmegaConf.create(yaml)
        (folder / "mine" / group).mkdir(parents=True)
        (folder / "mine" / group / f"{node.name}.yaml").write_text(yaml)
        (folder / f"{node._target_.partition('.')[0]}.py").write_text(code)
    (folder / "small.npz").write_bytes(npz(train=images(110), test=images(30)))
    made = ["dataset=npz", "dataset.path=small.npz", "objective=iwae,dreg", "k=50", "runs_dir=runs"]
    done = python(fork_server, folder, folder, ["train.py", "-m", *QUICK, *made])
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").glob("*iwae*")
    run.rename(folder / "runs" / "RUN")
    return folder


def python(fork_server, cwd: Path, folder: Path, arguments: list[str]):
    return Command(fork_server, folder, arguments, os.environ | {"PYTHONPATH": f"{cwd}:{ROOT}"}, cwd).wait()


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[] if c.readme == "README.md" else pytest.mark.slow, id=name(c)) for c in SHORT],
)
def test_every_command_runs(command, fork_server, here, tmp_path):
    program, *arguments = shlex.split(command.line)
    assert program == "python", f"{command}: say how long it takes, or which other program it is"
    if arguments[0] == "train.py":
        arguments += [*QUICK, "k=3", f"runs_dir={tmp_path / 'runs'}"]
        if "dataset=" not in command.line:
            arguments += ["dataset=npz", "dataset.path=small.npz"]
    done = python(fork_server, here, tmp_path, arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMPOSED, ids=name)
def test_every_long_command_can_be_composed(command, fork_server, here, tmp_path):
    arguments = [part for part in shlex.split(command.line)[1:] if not part.startswith("hydra/")]
    if "-m" in arguments:  # compose the first job
        arguments = [re.sub(r"=([^,]+),.*", r"=\1", part) for part in arguments if part != "-m"]
    done = python(fork_server, here, tmp_path, [*arguments, "--cfg", "job"])
    assert done.returncode == 0, done.stderr


def test_the_library_examples_measure_models(here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(here)
    for number, example in enumerate(blocks(ROOT / "README.md", "python")):
        (tmp_path / f"{number}.py").write_text(example.replace("k=5000", "k=50"))
        done = runpy.run_path(str(tmp_path / f"{number}.py"))
        assert 0 < float(capsys.readouterr().out.split()[0]) < 784
    assert [z.shape for z in done["latents"]] == [(10, 50)]
    assert done["pictures"].shape == (10, 784)
    assert len(done["table"]) == 2


@pytest.mark.parametrize("group", ["objective", "model"])
def test_every_option_is_in_the_table(group):
    options = {path.stem for path in (CONF / group).glob("*.yaml")}
    table = (ROOT / "iwae_lab" / f"{group}s" / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)[ `]", table, re.MULTILINE)) == options
    if group == "objective":
        _, _, table = (ROOT / "README.md").read_text().partition("\n## Objectives\n")
        rows = re.findall(r"^\| (`[\w`, ]+`) \|", table.partition("\n## ")[0], re.MULTILINE)
        assert set(re.findall(r"\w+", " ".join(rows))) == options


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(ROOT)))
def test_every_link_leads_somewhere(readme):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", readme.read_text()):
        assert target.startswith("https://") or (readme.parent / target).exists(), target
