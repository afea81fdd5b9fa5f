"""The example in iwae_lab/evaluation/README.md does what it says."""

import re
from pathlib import Path

import torch
from helpers.commands import ROOT

from iwae_lab.evaluation import ais
from iwae_lab.models.hierarchical import HierarchicalModel

README = (ROOT / "iwae_lab" / "evaluation" / "README.md").read_text()


def test_the_example_runs(monkeypatch):
    torch.manual_seed(0)
    scope = {
        "model": HierarchicalModel([3], [[5]], mean_image=torch.rand(12)),
        "images": (torch.rand(4, 12) < 0.4).byte(),
    }  # fmt: skip
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    small = example.replace("5000", "600").replace("temperatures=1000", "temperatures=4").replace("100,", "3,")
    exec(small, scope)
    assert scope["result"].unreliable is not None and 500 in scope["result"].bounds
    assert scope["annealed"].bound.shape == (4,)
    assert isinstance(scope["how"], ais.Annealing)


def test_the_table_lists_every_file():
    files = {path.name for path in Path(ROOT / "iwae_lab" / "evaluation").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^\| `(\w+\.py)`", README, re.MULTILINE)) == files
