"""A run's identity: equal for equal settings however they are written, another for whatever changes the result."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT
from helpers.datasets import images, npz
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from iwae_lab.runs.config import CONF, GROUPS, register
from iwae_lab.runs.experiment import resolve
from iwae_lab.training.schedules import Constant

Composed = Callable[..., DictConfig]


def id_of(cfg: DictConfig) -> str:
    return resolve(cfg).run_id


def composed_once(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


few = settings(max_examples=15, deadline=None)
BASE, RENYI = composed_once("objective=tvo"), composed_once("objective=renyi")
SHIPPED = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
OPTIONS = [option for option in SHIPPED if option != ("dataset", "npz")]
REAL_NUMBERS = [
    "schedule.learning_rate",
    "schedule.constant",
    "optimizer.weight_decay",
    "optimizer.beta1",
    "objective.first",
]
WHOLE_NUMBERS = ["k", "seed", "stack", "schedule.epochs", "schedule.batch_size", "evaluation.k", "objective.intervals"]


def with_value(key: str, value: Any, base: DictConfig = BASE) -> DictConfig:
    cfg = base.copy()
    OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


@few
@given(st.sampled_from(REAL_NUMBERS), st.floats(1e-6, 0.5))
def test_a_number_is_the_same_however_it_is_spelt(key: str, value: float) -> None:
    spelt = [value, repr(value), f"{value:.17e}", f"+{value!r}"]
    assert len({id_of(with_value(key, text)) for text in spelt}) == 1


@few
@given(st.sampled_from(["objective.alpha", "schedule.warmup", "schedule.learning_rate"]), st.integers(1, 12))
def test_a_whole_number_is_that_real_number(key: str, value: int) -> None:
    spelt = [value, float(value), f"{value}.0", f"{value}e0"]
    assert len({id_of(with_value(key, written, RENYI)) for written in spelt}) == 1


@few
@given(st.integers(-3, 3), st.integers(-3, 3), st.integers(1, 9))
def test_an_annealed_parameter_is_the_same_however_it_is_spelt(start: int, end: int, epochs: int) -> None:
    spelt = [
        {"from": start, "to": end, "epochs": epochs},
        {"epochs": float(epochs), "to": float(end), "from": float(start)},
    ]
    assert len({id_of(with_value("objective.alpha", value, RENYI)) for value in spelt}) == 1
    other = spelt[0] | {"from": start + 0.5}
    assert id_of(with_value("objective.alpha", other, RENYI)) != id_of(with_value("objective.alpha", spelt[0], RENYI))


@few
@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3, unique=True).map(sorted))
def test_a_list_of_numbers_is_that_list_with_any_zero(points: list[float]) -> None:
    assert id_of(with_value("objective.betas", [0, *points])) == id_of(with_value("objective.betas", [0.0, *points]))
    assert id_of(with_value("objective.betas", [0, *points])) != id_of(with_value("objective.betas", [0, *points[:-1]]))


@pytest.mark.parametrize(
    ("group", "option"),
    [
        pytest.param(*option, marks=pytest.mark.slow if i % 2 else []) for i, option in enumerate(OPTIONS)
    ],  # half of them
)
def test_a_key_left_out_is_that_key_at_its_default(group: str, option: str) -> None:
    cfg = composed_once(f"{group}={option}")
    node: Any = OmegaConf.to_container(cfg[group])
    checked = resolve(cfg).nodes[group]
    parameters = inspect.signature(checked.target).parameters
    whole, bare = cfg.copy(), cfg.copy()
    whole[group] = checked.arguments | node
    bare[group] = {k: v for k, v in node.items() if k not in parameters or v != parameters[k].default}
    assert id_of(bare) == id_of(cfg) == id_of(whole)


@few
@given(st.sampled_from(REAL_NUMBERS), st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_unlike_numbers_are_unlike_runs(key: str, one: float, other: float) -> None:
    assert (id_of(with_value(key, one)) == id_of(with_value(key, other))) == (one == other)


@few
@given(st.sampled_from(WHOLE_NUMBERS), st.integers(2, 30), st.integers(2, 30))
def test_unlike_whole_numbers_are_unlike_runs(key: str, one: int, other: int) -> None:
    assert (id_of(with_value(key, one)) == id_of(with_value(key, other))) == (one == other)


class Own(Constant):
    """A user's schedule, with every kind of parameter."""

    def __init__(self, path: Path = Path("a/b"), either: int | float = 2, names: dict[str, int] | None = None) -> None:
        super().__init__(1, 20, 0.001)


def test_a_user_s_class_goes_by_its_import_path_and_may_have_arguments_of_any_kind() -> None:
    cfg = BASE.copy()
    node = {"name": 2024, "_target_": f"{__name__}.Own"}
    cfg.schedule = node
    found = resolve(cfg).identity["schedule"]
    assert found == {"name": "2024", "_target_": f"{__name__}.Own", "path": "a/b", "either": 2, "names": None}
    for same in ({"path": "a/b"}, {"either": 2.0}, {"names": None}):
        cfg.schedule = node | same
        assert resolve(cfg).identity["schedule"] == found
    named = []
    for count in (1, "1", 2):
        cfg.schedule = node | {"names": {"from": count}}
        named.append(resolve(cfg).run_id)
    assert named[0] == named[1] != named[2]
    assert resolve(BASE).identity["schedule"]["_target_"] == "LinearDecay"


@pytest.mark.parametrize(
    "override", ["k=5", "seed=1", "objective=vae", "model=two_layer", "schedule=paper", "schedule.epochs=3",
                 "evaluation.k=10", "evaluation.images=10", "optimizer.beta1=0.99", "precision=bf16", "dataset=mnist",
                 "dataset.binarization=threshold"],
)  # fmt: skip
def test_whatever_changes_the_result_changes_the_identity(override: str, composed: Composed) -> None:
    assert id_of(composed(override)) != id_of(composed())


@pytest.mark.parametrize(
    "override", ["logger=none", "accelerator=cpu", "runs_dir=elsewhere", "threads=1", "force=true",
                 "compile=false", "diagnostics=true", "evaluation.images=500", "evaluation.images=9999",
                 "evaluation.ais.images=5", "evaluation.gaps.images=5"],
)  # fmt: skip
def test_where_and_how_fast_changes_no_identity(override: str, composed: Composed) -> None:
    assert id_of(composed(override)) == id_of(composed())


def test_images_of_one_s_own_are_known_by_their_content(composed: Composed, tmp_path: Path) -> None:
    """Neither by the file's name and folder nor by how their grey levels were stored."""
    (tmp_path / "b").mkdir()
    train, test = images(20), images(8)
    files = {"a.npz": (train, test), "b/c.npz": (train, test), "floats.npz": (train / 255, test / 255)}
    for name, arrays in files.items():
        (tmp_path / name).write_bytes(npz(train=arrays[0], test=arrays[1]))
    (tmp_path / "other.npz").write_bytes(npz(train=images(20, seed=1), test=test))

    def of(name: str, *more: str) -> str:
        return id_of(composed("dataset=npz", f"dataset.path={tmp_path / name}", *more))

    assert len({of(name) for name in files} | {of("a.npz", "evaluation.images=8")}) == 1
    assert len({of("a.npz"), of("other.npz"), of("a.npz", "dataset.binarization=threshold")}) == 3


def test_run_ids_say_what_a_run_is(composed: Composed) -> None:
    name = id_of(composed("objective=vae", "k=5", "seed=3", "model=two_layer"))
    assert name.startswith("mnist_5k-two_layer-vae-k5-s3-")
    assert len(name.rsplit("-", 1)[1]) == 8
