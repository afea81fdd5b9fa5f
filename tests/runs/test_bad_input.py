"""Bad input: one line that names it, exit code 1, nothing written or deleted; a misspelt key is told the right one."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import ROOT, TINY
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iwae_lab.compare.runs import find_runs
from iwae_lab.console.errors import UserError
from iwae_lab.console.explain import one_line_errors
from iwae_lab.runs.record import read_metrics, read_record
from iwae_lab.runs.run import run
from iwae_lab.runs.weights import read_map, read_tensors
from iwae_lab.training.checkpoints import checkpoint_to_resume

KINDS = {
    "wrong type": [
        "k=abc", "k=1.5", "k=null", "k=[1]", "k={a: 1}", "k=true", "seed=x", "seed=0.5", "seed=null",
        "evaluation.k=many", "evaluation.k=2.5", "evaluation.images=all", "evaluation=5", "evaluation=null",
        "evaluation.gaps.images=all", "evaluation.gaps=5", "evaluation.ais=5", "evaluation.ais.images=many", "k=1e3",
        "seed=1e99", "seed=true", "evaluation.images=1e2", "model.latents={a: 1}", "model.latents=[null]",
        "logger.wandb.tags=[[a]]", "logger.tensorboard._target_=5", "init_from={seed: x}", "k=${seed}x",
        "objective=renyi objective.alpha={to: 1, epochs: 2}", "objective=renyi objective.alpha={from: 0}",
        "objective=renyi objective.alpha={from: 0, to: x, epochs: 3}",
        "diagnostics=maybe", "force=perhaps", "force=null",
        "schedule.epochs=2.5", "schedule.epochs=[1]", "schedule.epochs=many", "schedule.batch_size=x",
        "schedule.learning_rate=fast", "schedule.learning_rate=null", "schedule.learning_rate=[1]", "model.latents=5",
        "model.latents=[a]", "model.latents=null", "model.hidden=[5]", "model.hidden=8", "model.hidden=[[a]]",
        "optimizer.beta1=x", "optimizer.eps={a: 1}", "objective=renyi objective.alpha=x", "runs_dir=null",
        "runs_dir=[a]", "threads=[2]", "noise=[iid]", "precision=[32]", "init_from=5", "init_from=[a]",
        "init_from=true",
        "dataset=npz dataset.path=[a]", "logger.wandb.tags=x", "logger.wandb.init_timeout=soon", "logger.csv=5",
        "objective=piwae objective.groups=x", "objective=tvo objective=[]",
    ],
    "range": [
        "k=0", "k=-1", "seed=-1", "seed=4294967296", "evaluation.k=0", "evaluation.images=0", "evaluation.images=1",
        "evaluation.images=-3", "schedule.epochs=0", "schedule.epochs=-2", "schedule.batch_size=0",
        "schedule.batch_size=-1",
        "schedule.learning_rate=-1", "schedule.learning_rate=nan", "schedule.learning_rate=inf", "threads=0",
        "threads=-1", "threads=1.5", "threads=many", "noise=white", "noise=''", "precision=16", "precision=fp64",
        "accelerator=tpu", "accelerator=''", "compile=maybe", "optimizer.beta1=1", "optimizer.beta1=-0.1",
        "optimizer.eps=-1", "optimizer.beta2=nan", "model.latents=[]", "model.latents=[0]", "model.latents=[-1]",
        "model.hidden=[]", "model.hidden=[[0]]", "model.hidden=[[8],[8]]",
        "objective=renyi objective.alpha=nan", "objective=piwae objective.groups=0", "dataset.binarization=maybe",
        "evaluation.gaps.images=1", "evaluation.gaps.images=-1",
        "evaluation.ais.chains=0", "evaluation.ais.start=posterior", "evaluation.ais.schedule=cosine",
        "evaluation.ais.leapfrog_steps=0", "threads=100000",
        "objective=dreg_alpha objective.alpha={from: 0, to: 2, epochs: 3}",
        "dataset.binarization=''", "schedule.constant=2", "schedule.constant=-1",
    ],
    "unknown": [
        "kk=5", "sed=1", "evaluation.kk=5", "evaluation.image=5", "trainer.devices=2", "trainer=2", "schedule.epoch=2",
        "schedule.passes=2", "optimizer.beta3=0", "model.latent=[5]", "objective.alpha=0", "dataset.split=1",
        "logger.wandb.projct=a", "logger.csv.path=a", "+kk=5", "+evaluation.kk=5", "+schedule.shape=1",
        "+objective.m=2", "evaluation.gaps.image=5",
        "+logger.csv.name=a", "+model.depth=3", "+dataset.url=a", "~nope", "+trainer.gpus=1",
    ],
    "group": [
        "objective=nope", "objective=iwea", "model=nope", "dataset=nope", "dataset=MNIST", "optimizer=sgd",
        "schedule=slow", "logger=comet", "experiment=nope", "objective=null", "model=null", "dataset=null",
        "schedule=null", "optimizer=null", "logger=null", "+nope=iwae", "objective=''", "~objective", "~model",
        "dataset=npz", "model._target_=nope", "model._target_=nope.Nope", "model._target_=os.path",
        "model._target_=os.getcwd", "objective._target_=iwae_lab.data.mnist.MNIST", "dataset._target_=null",
        "logger.csv._target_=os.PathLike", "objective._target_=iwae_lab.objectives.base.Objective",
        "init_from={kk: 5}", "init_from={k: 0}", "init_from={objective: vae}", "init_from={model: {name: a}}",
    ],
    "path": [
        "runs_dir=/dev/null/runs", "runs_dir=/proc/nope", "runs_dir=''", "runs_dir='~nobody-here/runs'",
        "runs_dir='a\0b'", f"runs_dir={'x' * 300}", "data_dir=/no/such/folder", "data_dir=''", "data_dir=/etc/passwd",
        "init_from=/no/such/run", "init_from=''", "init_from=/etc/passwd", "init_from='~'",
        "init_from=/no/such/file.safetensors",
        "dataset=npz dataset.path=/no/such.npz", "dataset=npz dataset.path=''", "dataset=npz dataset.path=/etc",
        "dataset=npz dataset.path=/etc/passwd", "dataset=npz dataset.path=/dev/null",
        f"dataset=npz dataset.path={'x' * 300}",
    ],
    "name": [
        "objective.name=null", "objective.name=''", "objective.name=my/iwae", "objective.name=../iwae",
        "objective.name='my iwae'", "objective.name=.iwae", "objective.name=-iwae", "objective.name='ñandú'",
        f"objective.name={'x' * 33}", "objective.name=true", "objective.name=1.5", "objective.name=[a]",
        "objective.name='a\nb'", "model.name=a/b", "dataset.name=null", "schedule.name=''", "optimizer.name='a b'",
    ],
    "together": [
        "k=1 objective=tvo", "k=1 objective=jvi", "k=1 objective=ovis", "k=1 objective=vimco", "k=1000000000000",
        "objective=disarm", "model=sigmoid_belief objective=dreg", "model=sigmoid_belief objective=vae",
    ],
    "grammar": [
        "dataset.path=~/nope.npz", "model=one_layer,two_layer", "k=${nope}", "logger=[csv,nope]",
        "k", "k=[1", "k={", "=5", "k=1,2", "'k", "objective=(", "++", "k==,", "schedule.=5", ".k=5"],
}  # fmt: skip
COMMANDS = [  # a third of them by default
    pytest.param(kind, line, marks=[pytest.mark.slow] if i % 3 else [])
    for kind, lines in KINDS.items()
    for i, line in enumerate(lines)
]


@pytest.fixture(scope="module")
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refusal(command: Callable[[], Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends with, having left the folder as it was."""
    before, start = contents(folder), time.process_time()
    with pytest.raises(SystemExit) as stop, one_line_errors():
        command()
    said = capsys.readouterr()
    assert stop.value.code == 1
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    assert len(said.err) < 2000, said.err
    assert contents(folder) == before
    assert time.process_time() - start < 5
    return said.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("k=five", "k=five: expected an integer"),
        ("k={a: 1}", "k={a: 1}: expected an integer"),
        ("evaluation.k=null", "evaluation.k=null: expected a value"),
        ("force=perhaps", "force=perhaps: expected true or false"),
        ("model.latents={a: 1}", "model.latents={a: 1}: expected a list"),
        ("init_from={seed: x}", "init_from: seed=x: expected an integer"),
        ("objective.beta=1", "objective.beta: no such key; objective=iwae sets no parameters; +objective.beta=VALUE"),
        ("init_from={kk: 1}", "init_from: kk: no such key (did you mean k?); expected one of dataset, model"),
        ("init_from.k=1", "init_from.k: no such key; expected init_from={k: VALUE}"),
        ("+a.b.c=1", "a: no such key; expected one of dataset, model"),
        (
            "model.latents=[4,4]",
            "model.hidden=[[200, 200]]: expected a list of widths of at least 1 for each of latents=",
        ),
        ("~logger", "logger is missing: expected logger=VALUE"),
        ("logger=[csv,nope]", "logger=nope: no such option"),
        ("k=1,5", "k=1,5: expected one value; a multirun (-m) takes several"),
        ("runs_dir=~/my/runs", "runs_dir=~/my/runs: expected KEY=VALUE, with quotes round special characters"),
    ],
)
def test_what_is_expected_is_said(
    line: str, expected: str, hydra: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: {expected}" in refusal(lambda: run(compose("config", overrides=[line])), tmp_path, capsys)


@pytest.mark.parametrize(("kind", "line"), COMMANDS)
def test_a_bad_command_line_is_one_line(
    kind: str,
    line: str,
    hydra: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    first, *others = re.split(r" (?=objective|dataset|k=)", line)
    tiny = [override for override in TINY if not (first.startswith("dataset=") and override.startswith("dataset"))]
    overrides = [*tiny, f"runs_dir={tmp_path / 'runs'}", "logger=wandb", first, *others]
    said = refusal(lambda: run(compose("config", overrides=overrides)), tmp_path, capsys)
    key, _, value = (others[0] if others else first).lstrip("+~").partition("=")
    named = "GROUP" if value == "null" and "." not in key and kind == "group" else key
    assert kind == "grammar" or named in said or (len(value) > 2 and value in said.lower()), said


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            yield prefix + key


@pytest.fixture(scope="module")
def keys(hydra: None) -> list[str]:
    from omegaconf import OmegaConf

    cfg = OmegaConf.to_container(compose("config", overrides=["optimizer=soap", "schedule=fast"]))
    return [key for key in leaves(cfg) if len(key.rpartition(".")[2]) > 3]


@settings(derandomize=True, max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_misspelt_key_is_told_the_right_one_at_any_depth(
    data: st.DataObject, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = data.draw(st.sampled_from(keys))
    group, dot, name = key.rpartition(".")
    i = data.draw(st.integers(1, len(name) - 2))
    wrong = data.draw(
        st.sampled_from([name[:i] + name[i + 1 :], name[:i] + name[i] + name[i:], name[:i] + "x" + name[i + 1 :]])
    )
    if wrong == name or group + dot + wrong in keys:
        return
    plus = data.draw(st.sampled_from(["", "+", "++"]))
    overrides = ["optimizer=soap", "schedule=fast", f"runs_dir={tmp_path / 'runs'}", f"{plus}{group}{dot}{wrong}=1"]
    said = refusal(lambda: run(compose("config", overrides=overrides)), tmp_path, capsys)
    assert f"{group}{dot}{wrong}" in said
    assert f"did you mean {key}?" in said or f"did you mean {name}?" in said, said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_subnormal=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
RECORD = next((ROOT / "sweeps" / "records").rglob("result.json"))


@settings(derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_record_with_any_other_value_is_read_or_refused_in_one_line(
    data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut short anywhere, or with any JSON in the place of a value."""
    whole = RECORD.read_text()
    path = tmp_path / "result.json"
    if data.draw(st.booleans()):
        path.write_text(whole[: data.draw(st.integers(0, len(whole) - 3))])
        said = refusal(lambda: read_record(tmp_path), tmp_path, capsys)
        assert str(path) in said
        return
    content = json.loads(whole)
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSON)
    path.write_text(json.dumps(content))
    try:
        find_runs([tmp_path])
    except UserError as error:
        assert str(path) in str(error)


def checkpoint(**entries: Any) -> bytes:
    file = io.BytesIO()
    torch.save(entries, file)
    return file.getvalue()


WHOLE = checkpoint(state_dict={}, epoch=1)
GARBAGE = {"empty": b"", "text": b"no such thing", "null": b"\0" * 100, "binary": bytes(range(256)) * 4}
READERS: dict[str, Callable[[Path], Any]] = {
    "result.json": lambda path: read_record(path.parent),
    "metrics.csv": lambda path: read_metrics(path.parent),
    "checkpoints/last.ckpt": lambda path: checkpoint_to_resume(path.parent, {}),
    "weights.safetensors": read_tensors,
    "weights.npz": read_tensors,
    "weights.pt": read_tensors,
    "map.yaml": lambda path: read_map(str(path)),
}
FILES = [(name, content) for name in READERS for content in GARBAGE.values()] + [
    ("result.json", b"[]"),
    ("result.json", b"{}"),
    ("result.json", RECORD.read_bytes()[:-5]),
    ("result.json", b'{"version": 9}'),
    ("result.json", json.dumps(json.loads(RECORD.read_text()) | {"new_field": 1}).encode()),
    ("result.json", json.dumps(json.loads(RECORD.read_text()) | {"metrics": {}}).encode()),
    ("metrics.csv", b"step,train/bound\n40,-200.5,7\n"),
    ("metrics.csv", b"step,train/bound\n40,abc\n"),
    ("metrics.csv", b"epoch,train/bound\n1,-200\n"),
    ("metrics.csv", b"step,epoch\n40.5,1\n"),
    ("checkpoints/last.ckpt", WHOLE[: len(WHOLE) // 2]),
    ("checkpoints/last.ckpt", checkpoint(weights=1)),
    ("checkpoints/last.ckpt", checkpoint(state_dict={"model.other": torch.ones(2)}, epoch=1)),
    ("map.yaml", b"layers: [1]"),
    ("map.yaml", b"layers: {a: b}\nscael: sigma"),
    ("map.yaml", b"layers: {a: b"),
]


@pytest.mark.parametrize(("name", "content"), FILES)
def test_a_bad_file_is_one_line(name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    if name == "metrics.csv" and not content:
        assert read_metrics(tmp_path) == []
        return
    assert str(path) in refusal(lambda: READERS[name](path), tmp_path, capsys)


class Executed:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "weights.pt"])
def test_nothing_in_a_checkpoint_is_executed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(checkpoint(state_dict={"a": Executed()}, epoch=1))
    refusal(lambda: READERS[name](path), tmp_path, capsys)


@pytest.mark.parametrize("command", [["train.py", "objective=iwea"], ["train.py", "--nope"], ["train.py", "k=0"]])
def test_through_the_real_command_line(command: list[str], cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli(*command, f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and not (tmp_path / "runs").exists()
