"""Who imports whom: no circle, and no lower floor that reaches into a higher one."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "iwae_lab"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(module: str) -> set[str]:
    """The modules that a module names in import statements, wherever they stand, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name for name in inner if name in MODULES} or {node.module}
    return found


GRAPH = {module: imports(module) for module in MODULES}


def reached(module: str) -> set[str]:
    """Everything that a module imports, directly or through other modules of the package."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name in GRAPH.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert [module for module in MODULES if module in reached(module)] == []


MATHEMATICS = ("bounds", "models", "objectives", "evaluation")
FLOORS = [
    ("console",),
    MATHEMATICS,
    ("data", "runs.record"),
    ("loggers",),
    ("training",),
    ("runs",),
    ("compare",),
]
COMMANDS = ("evaluate", "export", "runs.posteriors")


def floor(module: str) -> int:
    """The lowest of the floors that the module belongs to."""
    inner = module.removeprefix("iwae_lab.")
    if inner.endswith("__main__") or inner in COMMANDS:
        return len(FLOORS)
    return next(i for i, names in enumerate(FLOORS) if inner.startswith(names))


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"iwae_lab"}))
def test_no_floor_reaches_into_a_higher_one(module: str) -> None:
    higher = {name for name in GRAPH[module] if name.startswith("iwae_lab.") and floor(name) > floor(module)}
    assert higher == set()


@pytest.mark.parametrize("name", MATHEMATICS)
def test_mathematics_needs_torch_and_no_framework(name: str) -> None:
    for module in MODULES:
        if module.startswith(f"iwae_lab.{name}"):
            libraries = {library.partition(".")[0] for library in reached(module)}
            assert not libraries & {"hydra", "omegaconf", "pytorch_lightning", "wandb", "matplotlib"}, module
            ours = {found for found in reached(module) if found.startswith("iwae_lab.")} - {"iwae_lab.console.errors"}
            assert {found.split(".")[1] for found in ours} <= {*MATHEMATICS}, module


def test_a_configuration_is_read_before_torch_is_imported() -> None:
    assert "torch" not in reached("iwae_lab.runs.config")


def test_comparing_needs_neither_torch_nor_what_trains() -> None:
    for module in MODULES:
        if module.startswith("iwae_lab.compare"):
            libraries = {library.partition(".")[0] for library in reached(module)}
            assert not libraries & {"torch", "pytorch_lightning", "hydra"}, module


def test_the_package_has_at_most_a_dozen_entries() -> None:
    entries = [path.name for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert len(entries) <= 12, sorted(entries)


def test_the_names_of_metrics_are_written_in_one_place() -> None:
    key = re.compile(r"""["'](train|val|test|diagnostics)/""")
    elsewhere = [module for module, path in MODULES.items() if key.search(path.read_text())]
    assert elsewhere == ["iwae_lab.evaluation.keys"]
