"""The configuration's schema and checks, and the only place that instantiates a `_target_`."""

import ast
import copy
import dataclasses
import functools
import inspect
import os
import pkgutil
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iwae_lab.console.errors import UserError, as_typed, did_you_mean, require, require_one_of
from iwae_lab.console.names import check_name
from iwae_lab.evaluation.annealing import Annealing
from iwae_lab.objectives.parameter_schedule import ParameterSchedule

__all__ = [
    "AIS",
    "CONF",
    "GROUPS",
    "Config",
    "Evaluation",
    "Gaps",
    "Node",
    "check",
    "first_stage",
    "help_text",
    "parameter_schedules",
    "register",
]

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("dataset", "model", "objective", "schedule", "optimizer")
ACCELERATORS = ("auto", "cpu", "gpu")
KINDS = {int: "an integer", float: "a number", str: "text", bool: "true or false"}

T = TypeVar("T")


def _require_none_or_several(key: str, images: int) -> None:
    require(key, images, images == 0 or images >= 2, "0 or at least 2")  # a standard error takes two


@dataclass
class AIS:
    """Annealed importance sampling (AIS) of some test images and as many drawn from the model."""

    images: int = 0
    """also anneal n of the test images, and n drawn from the model (AIS and its reverse); 0: none"""
    chains: int = Annealing.chains
    """chains per image"""
    temperatures: int = Annealing.temperatures
    """steps from the start to the posterior; papers use 10,000"""
    leapfrog_steps: int = Annealing.leapfrog_steps
    """leapfrog steps per Hamiltonian move"""
    start: str = Annealing.start
    """q (the encoder's posterior) or prior"""
    schedule: str = Annealing.schedule
    """temperature schedule: sigmoid or linear"""

    def __post_init__(self) -> None:
        _require_none_or_several("evaluation.ais.images", self.images)
        self.annealing()

    def annealing(self) -> Annealing:
        """The settings other than `images`. Raises `UserError` for values out of range."""
        try:
            return Annealing(self.chains, self.temperatures, self.leapfrog_steps, self.start, self.schedule)
        except UserError as error:
            raise UserError(f"evaluation.ais.{error}") from None


@dataclass
class Gaps:
    """The encoder's approximation and amortization gaps on some test images."""

    images: int = 0
    """also optimise a posterior for each of n test images (the encoder's gaps); 0: none"""

    def __post_init__(self) -> None:
        _require_none_or_several("evaluation.gaps.images", self.images)


@dataclass
class Evaluation:
    """What is measured when training ends."""

    k: int = 5000
    """samples per image for the reported NLL"""
    images: int | None = None
    """evaluate on the first n test images; null: all"""
    ais: AIS = field(default_factory=AIS)
    gaps: Gaps = field(default_factory=Gaps)

    def __post_init__(self) -> None:
        require("evaluation.k", self.k, self.k >= 1, "an integer of at least 1")
        if self.images is not None:
            require("evaluation.images", self.images, self.images >= 2, "null or an integer of at least 2")


@dataclass
class Config:
    """The configuration of one job: an option per group, and the keys beside the groups."""

    dataset: Any = MISSING
    model: Any = MISSING
    objective: Any = MISSING
    schedule: Any = MISSING
    optimizer: Any = MISSING
    logger: Any = MISSING
    k: int = 50
    """importance samples per image in training"""
    noise: str = "iid"
    """how an image's samples depend on each other in training: iid, antithetic or rqmc (scrambled Sobol')"""
    seed: int = 0
    """seed of initialisation, batches, binarization and noise"""
    stack: int = 1
    """train n consecutive seeds at once (0 to n-1, n to 2n-1, …); meant for GPUs; each seed is its own run"""
    evaluation: Evaluation = field(default_factory=Evaluation)
    init_from: Any = None
    """start from a run's weights: its folder, its exported .safetensors, or the keys of a first stage, run first"""
    runs_dir: str = "runs"
    """where run folders go"""
    data_dir: str | None = None
    """where datasets are; null: $IWAE_LAB_DATA, else the user's cache"""
    accelerator: str = "auto"
    """auto (gpu where there is one), cpu or gpu"""
    precision: str = "auto"
    """training's matrix products: 32 (TF32 on CUDA), bf16 or auto (bf16 if harmless and faster); evaluation: fp32"""
    compile: str = "auto"
    """torch.compile training steps and the test NLL: true, false or auto (if the remaining calls repay it)"""
    threads: str = "auto"
    """CPU threads of this job; auto: all cores, divided among a multirun's simultaneous jobs"""
    diagnostics: bool = False
    """measure effective samples, KL and the gradient's signal-to-noise ratio while training"""
    force: bool = False
    """run again even if finished (the old folder is kept in runs_dir/.replaced)"""

    def __post_init__(self) -> None:
        require("k", self.k, self.k >= 1, "an integer of at least 1")
        require("seed", self.seed, 0 <= self.seed < 2**32, "an integer from 0 to 2**32 - 1")
        valid_stack = self.stack >= 1 and (self.seed // self.stack + 1) * self.stack <= 2**32
        require("stack", self.stack, valid_stack, "an integer of at least 1, so that all seeds are below 2**32")
        if self.stack > 1:  # it writes into the folders of other runs
            require("force", self.force, not self.force, "false with stack above 1; move the old folders away")
            require("init_from", self.init_from, self.init_from is None, "null with stack above 1")
        require_one_of("accelerator", self.accelerator, ACCELERATORS)
        self.compile = self.compile.lower()  # OmegaConf turns true into "True"
        valid_threads = self.threads == "auto" or (self.threads.isdecimal() and 1 <= int(self.threads) <= 1024)
        require("threads", self.threads, valid_threads, "auto or an integer from 1 to 1024")
        if self.data_dir is not None:
            is_directory = os.path.isdir(os.path.expanduser(self.data_dir))
            require("data_dir", self.data_dir, is_directory, "an existing directory")
        self.runs_dir = os.path.expanduser(self.runs_dir)
        is_path = bool(self.runs_dir) and not self.runs_dir.startswith("~")
        require("runs_dir", self.runs_dir, is_path, "a directory that can be written")
        if isinstance(self.init_from, str):
            self.init_from = os.path.expanduser(self.init_from)
        known = self.init_from is None or isinstance(self.init_from, str | dict)
        require("init_from", self.init_from, known, "null, a folder, a file or keys")


def register() -> None:
    """Register the schema (`config_schema`) and the resolvers with Hydra."""
    ConfigStore.instance().store(name="config_schema", node=Config)
    OmegaConf.register_new_resolver("iwae_lab_help", help_text, replace=True)
    OmegaConf.register_new_resolver("expanduser", os.path.expanduser, replace=True)


def check(cfg: DictConfig) -> Config:
    """Convert the composed configuration to a checked `Config`; groups become plain dictionaries.

    Raises `UserError` for an unknown key or a value out of range. `Node.of` checks the keys inside a group.
    """
    try:
        OmegaConf.resolve(cfg)
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    assert isinstance(config, Config)
    for kind, prefix in _nodes():
        keys = [f.name for f in dataclasses.fields(kind)]
        for key in map(str, OmegaConf.select(cfg, prefix[:-1]) if prefix else cfg):
            if key not in keys:  # +key=value adds keys to a schema
                hint = did_you_mean(key, keys)
                raise UserError(f"{prefix}{key}: no such key{hint}; expected one of {', '.join(keys)}")
    for group in GROUPS:
        node = getattr(config, group)
        require(group, node, isinstance(node, dict), "the keys of an option, _target_ among them")
        if "name" not in node:
            raise UserError(f"{group}.name is missing: expected {group}.name=NAME, the name in records")
        node["name"] = check_name(f"{group}.name", node["name"])
    require("logger", config.logger, isinstance(config.logger, dict), "loggers by name, or logger=none")
    return config


def first_stage(cfg: DictConfig) -> DictConfig:
    """The configuration of the first stage: `cfg` with the keys under its `init_from`, which replace whole groups."""
    different = {"init_from": None, "force": False} | typing.cast(dict[str, Any], OmegaConf.to_container(cfg.init_from))
    plain = typing.cast(dict[str, Any], OmegaConf.to_container(cfg))
    return typing.cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), plain | different))


def parameter_schedules(node: Any) -> dict[str, ParameterSchedule]:
    """Every value {from: A, to: B, epochs: N} of an objective's node, by its key. Raises `UserError` where one is
    incomplete."""
    schedules = {}
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict) and "from" in value:
            numbers = set(value) == {"from", "to", "epochs"} and all(type(n) in (int, float) for n in value.values())
            valid = numbers and value["epochs"] >= 1 and value["epochs"] % 1 == 0
            require(f"objective.{name}", value, valid, "{from: A, to: B, epochs: N} with an integer N of at least 1")
            schedules[name] = ParameterSchedule(float(value["from"]), float(value["to"]), int(value["epochs"]))
    return schedules


def _imported(target: Any, key: str, base: type[T]) -> type[T]:
    """The class with the import path `target`.

    Raises `UserError` unless it can be imported and is a subclass of `base` that defines its abstract methods.
    """
    require(key, target, target is not None, "the import path of a class")
    try:
        kind = pkgutil.resolve_name(str(target))
        if not inspect.isclass(kind):
            raise TypeError(f"this is a {type(kind).__name__}")
    except Exception as error:  # whatever importing the user's module raises
        raise UserError(f"{key}={target}: expected a class to import ({error})") from None
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not issubclass(kind, base):
        raise UserError(f"{key}={name}: expected a subclass of {base.__name__}")
    missing = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
    require(key, name, not missing, f"a class that defines {missing}")
    return kind


@dataclass(frozen=True)
class Node(Generic[T]):
    """A checked option of a group: its class, and the arguments of that class, typed and with defaults filled in."""

    key: str
    target: type[T]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, node: dict[str, Any], key: str, base: type[T]) -> "Node[T]":
        """Check the option under `key` against the signature of its class, which must be a subclass of `base`.

        Parameters that are keyword-only or have no annotation are not keys of the option: the program passes them.
        Raises `UserError` if the class can't be imported or is not a `base`, and for unknown, missing or mistyped keys.
        """
        require(key, node, isinstance(node, dict), "the keys of an option, _target_ among them")
        kind = _imported(node.get("_target_"), f"{key}._target_", base)
        hints, parameters = typing.get_type_hints(kind.__init__), inspect.signature(kind).parameters
        fields = []
        for name, parameter in parameters.items():
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name in hints:
                default = MISSING if parameter.default is parameter.empty else parameter.default
                fields.append((name, hints[name], field(default_factory=functools.partial(copy.copy, default))))
        no_arguments = ("_target_", "name") if key in GROUPS else ("_target_",)
        given = {name: value for name, value in node.items() if name not in no_arguments}
        names = [name for name, *_ in fields]
        for name in given:
            if name in parameters and name not in hints:
                raise UserError(f"{key}.{name}={given[name]}: expected a type annotation of {name} in {kind.__name__}")
            if name not in names:
                expected = f"expected one of {', '.join(names)}" if names else f"{kind.__name__} has no parameters"
                raise UserError(
                    f"{key}.{name}={given[name]}: no such key{did_you_mean(name, [*names, 'name'])}; {expected}"
                )
        try:
            schema = OmegaConf.structured(dataclasses.make_dataclass(kind.__name__, fields))
        except OmegaConfBaseException as error:
            expected = f"a type that YAML has for {error.full_key}, or a keyword-only parameter"
            raise UserError(f"{key}._target_={node['_target_']}: expected {expected}") from None
        for name, value in given.items():
            try:
                OmegaConf.update(schema, name, value, merge=False)
            except OmegaConfBaseException:
                hint = KINDS.get(hints[name], hints[name])
                raise UserError(f"{key}.{name}={as_typed(value)}: expected {hint}") from None
        for name in names:
            if OmegaConf.is_missing(schema, name):
                raise UserError(f"{key}.{name} is missing: {kind.__name__} needs it")
        return cls(key, kind, typing.cast(dict[str, Any], OmegaConf.to_container(schema)))

    def build(self, **given: Any) -> T:
        """Instantiate the class with the further arguments `given`. Raises `UserError` if it does not take those."""
        parameters = inspect.signature(self.target).parameters
        for name in given:
            if name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                raise UserError(f"{self.key}._target_={self.target.__name__}: expected __init__ to take {name}")
        try:
            return self.target(**self.arguments, **given)
        except UserError as error:
            raise UserError(f"{self.key}.{error}") from None


def _nodes(cls: type = Config, prefix: str = "") -> list[tuple[type, str]]:
    """The dataclasses of the configuration, each with the prefix of its keys."""
    nodes = [(cls, prefix)]
    for f in dataclasses.fields(cls):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            nodes += _nodes(f.type, f"{prefix}{f.name}.")
    return nodes


def _docstrings(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, read from its source."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for statement, following in zip(body, body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[statement.target.id] = following.value.value  # type: ignore[union-attr, attr-defined]
    return docs


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def help_text() -> str:
    """What `python train.py --help` prints: one line per option of each group and per key."""
    entries = OmegaConf.load(CONF / "config.yaml").defaults
    defaults = {k: v for entry in entries if isinstance(entry, DictConfig) for k, v in entry.items()}
    lines = ["Train and evaluate one model.   python train.py [group=option] [key=value] [group.key=value]", ""]
    for group in sorted(path for path in CONF.iterdir() if path.is_dir()):
        rows = []
        for option in sorted(group.glob("*.yaml")):
            comments = [line[2:] for line in option.read_text("utf-8").splitlines() if line.startswith("# ")]
            summary = next((comment for comment in comments if not comment.startswith("@")), "")
            mark = "*" if defaults.get(group.name) == option.stem else " "
            rows.append((f" {mark} {option.stem}", summary))
        lines += [f"{group.name}=", *_aligned(rows)]
    rows = []
    for cls, prefix in _nodes():
        docs = _docstrings(cls)
        for f in dataclasses.fields(cls):
            if f.name in docs:
                default = "null" if f.default is None else str(f.default).lower()
                rows.append((f"   {prefix}{f.name}={default}", docs[f.name]))
    lines += ["", "(* default)   keys:", *_aligned(rows)]
    lines += [
        "",
        "A multirun takes lists:      python train.py -m objective=vae,iwae k=1,5,50",
        "The composed configuration:  python train.py --cfg job [overrides]",
    ]
    return "\n".join(lines).replace("$", "$$")
