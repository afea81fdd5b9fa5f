"""The configuration: every shipped YAML builds, every bad value is refused by name."""

import pkgutil
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from torch import Tensor

from iwae_lab.console.errors import UserError
from iwae_lab.console.explain import explain
from iwae_lab.objectives.iwae import IWAE
from iwae_lab.runs.config import CONF, Config, Evaluation, Node, check, help_text
from iwae_lab.runs.experiment import BASES, resolve

SHIPPED = [(path.parent.name, path.stem) for path in sorted(CONF.glob("*/*.yaml"))]
Composed = Callable[..., DictConfig]


@pytest.mark.parametrize(("group", "option"), SHIPPED)
def test_every_shipped_yaml_composes_and_builds(group: str, option: str, composed: Composed) -> None:
    required = {"dataset": {"npz": ["dataset.path=x.npz"]}}.get(group, {}).get(option, [])
    cfg = composed(f"{group}={option}", *required)
    experiment = resolve(cfg)
    if group in BASES:
        assert cfg[group].name == option, "the name by which records and tables know it"
        given = {"mean_image": torch.rand(4, 4)} if group == "model" else {}
        assert isinstance(experiment.nodes[group].build(**given), BASES[group])
    elif group == "logger":
        assert all(issubclass(pkgutil.resolve_name(node["_target_"]), Logger) for node in cfg.logger.values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("k=0", "k=0: expected"),
        ("k=-1", "k=-1: expected"),
        ("k=abc", "k=abc: expected an integer"),
        ("kk=5", r"kk: no such key \(did you mean k\?\)"),
        ("lr=0.1", r"lr: no such key \(did you mean schedule.learning_rate\?\)"),
        ("optimizer.lr=0.1", r"optimizer.lr: no such key \(did you mean schedule.learning_rate\?\)"),
        ("epochs=5", r"epochs: no such key \(did you mean schedule.epochs\?\)"),
        ("objective=IWAE", r"did you mean iwae\?"),
        ("model.latents=5", r"^model.latents=5: expected list\[int\]$"),
        ("seed=-1", "seed=-1: expected"),
        (
            "objective=nope",
            "objective=nope: no such option; expected one of .*iwae.*vae.*, or one of your own with -cd",
        ),
        ("objective=iwea", r"did you mean iwae\?"),
        ("hydra/launcher=nope", "hydra/launcher=nope: no such option; expected one of basic.*pip install"),
        ("schedule=nope", "schedule=nope: no such option; expected one of .*paper"),
        ("dataset=nope", "dataset=nope: no such option"),
        ("model=nope", "model=nope: no such option"),
        ("optimizer=nope", "optimizer=nope: no such option"),
        ("logger=nope", "logger=nope: no such option"),
        ("evaluation.k=0", "evaluation.k=0: expected"),
        ("evaluation.images=1", "evaluation.images=1: expected"),
        ("evaluation.kk=5", r"evaluation.kk: no such key \(did you mean k\?\)"),
        ("threads=0", "threads=0: expected auto or"),
        ("threads=many", "threads=many: expected auto or"),
        ("precision=16", "precision=16: expected one of auto"),
        ("accelerator=tpu", "accelerator=tpu: expected one of auto"),
        ("data_dir=/no/such/folder", "data_dir=/no/such/folder: expected an existing directory"),
        ("init_from=/no/such/run", "init_from: /no/such/run: expected a run's folder with its result.json"),
        ("schedule.epochs=0", "schedule.epochs=0: expected"),
        ("schedule.epochs=2.5", "schedule.epochs=2.5: expected an integer"),
        ("schedule.batch_size=0", "schedule.batch_size=0: expected"),
        ("schedule.learning_rate=-1", "schedule.learning_rate=-1.0: expected"),
        ("schedule.constant=2", "schedule.constant=2.0: expected"),
        ("optimizer.beta1=1", "optimizer.beta1=1.0: expected"),
        ("optimizer=adam optimizer.eps=0", "optimizer.eps=0.0: expected"),
        ("dataset.binarization=nope", "dataset.binarization=nope: expected"),
        ("model.latents=[]", r"model.latents=\[\]: expected"),
        ("model.latents=many", "model.latents=many: expected"),
        *((f"{group}.nope=1", f"{group}.nope: no such key") for group in BASES),
        *((f"+{group}.nope=1", f"{group}.nope=1: no such key") for group in BASES),
        ("~objective.name", "objective.name is missing: expected objective.name=NAME"),
        ("logger=csv logger.csv=null", "logger.csv=null: expected the keys of an option"),
        ("objective._target_=os.system", "objective._target_=os.system: expected"),
        ("objective._target_=no.such.thing", "objective._target_=no.such.thing: expected"),
        (
            "objective._target_=iwae_lab.training.schedules.Paper",
            "objective._target_=.*: expected a subclass of Objective",
        ),
        (
            "objective._target_=iwae_lab.objectives.base.Objective",
            "objective._target_=iwae_lab.objectives.base.Objective: expected a class that defines forward",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line_by_name(override: str, message: str, composed: Composed) -> None:
    with pytest.raises((UserError, HydraException)) as caught:
        nodes = resolve(composed(*override.split())).nodes
        nodes["model"].build(mean_image=torch.rand(4, 4))
    line = explain(caught.value)
    assert "\n" not in line
    assert re.search(message, line), line


def keys_of(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items_ex(resolve=False):
        if isinstance(value, DictConfig) and value:
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_root_key_is_in_the_help_with_a_line() -> None:
    text = help_text()
    for key in keys_of(OmegaConf.structured(Config)):
        if key not in {*BASES, "logger"}:
            (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{key}=")]
            assert len(line.split(maxsplit=1)[1]) > 10
    for group, option in SHIPPED:
        assert f"{group}=" in text
        said = [words for line in text.splitlines() if (words := line.removeprefix(" *").split())[:1] == [option]]
        assert said and all(len(words) > 1 for words in said), "each YAML has a comment at its head"


def test_defaults_are_those_promised(composed: Composed) -> None:
    config = check(composed())
    chosen = [getattr(config, group)["name"] for group in ("dataset", "model", "objective", "schedule", "optimizer")]
    assert chosen == ["mnist_5k", "one_layer", "iwae", "quick", "soap"]
    assert (config.k, config.seed, config.evaluation) == (50, 0, Evaluation(k=5000, images=None))


def test_the_papers_recipe_has_its_optimizer(composed: Composed) -> None:
    config = check(composed("experiment=paper"))
    assert [config.dataset["name"], config.schedule["name"]] == ["mnist", "paper"]
    assert {key: config.optimizer[key] for key in ("name", "beta1", "beta2", "eps")} == {
        "name": "adam", "beta1": 0.9, "beta2": 0.999, "eps": 1e-4
    }  # fmt: skip


def test_schema_is_the_dataclass(composed: Composed) -> None:
    assert OmegaConf.get_type(composed()) is Config


class Unannotated:
    def __init__(self, alpha=0.5, beta: float = 1.0) -> None:  # type: ignore[no-untyped-def]
        self.alpha = alpha


def test_a_parameter_without_annotation_is_no_key() -> None:
    node = {"_target_": f"{__name__}.Unannotated"}
    assert Node.of(node, "objective", object).arguments == {"beta": 1.0}
    with pytest.raises(UserError, match=r"^objective\.alpha=1: expected a type annotation of alpha in Unannotated"):
        Node.of(node | {"alpha": 1}, "objective", object)


class OfNoYamlType:
    def __init__(self, mean_image: Tensor | None = None) -> None:
        pass


def test_an_annotation_that_yaml_has_no_type_for_is_refused_by_name() -> None:
    target = f"{__name__}.OfNoYamlType"
    with pytest.raises(
        UserError, match=rf"^model\._target_={target}: expected a type that YAML has for mean_image, or"
    ):
        Node.of({"_target_": target}, "model", object)


def test_a_class_that_does_not_take_what_the_program_passes_is_told() -> None:
    node = Node.of({"_target_": f"{__name__}.Unannotated"}, "model", object)
    with pytest.raises(UserError, match=r"^model\._target_=Unannotated: expected __init__ to take mean_image"):
        node.build(mean_image=torch.rand(4))


class Uninitialised(IWAE):
    def __init__(self, tau: float = 1.0) -> None:
        self.tau = tau


def test_an_objective_that_forgets_its_base_is_told(composed: Composed) -> None:
    target = f"objective._target_={__name__}.Uninitialised"
    with pytest.raises(UserError, match=f"^{target}: expected __init__ to call super"):
        resolve(composed(target, "+objective.tau=2"))
