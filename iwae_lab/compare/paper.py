"""What Burda, Grosse & Salakhutdinov (arXiv 1509.00519v4) report, to stand beside our own results."""

from dataclasses import dataclass
from typing import Any

from iwae_lab.runs.record import Record

__all__ = ["ARCHITECTURES", "SECOND_STAGES", "TABLE_1", "Published", "has_its_objective", "published"]

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "one_layer": {"latents": [50], "hidden": [[200, 200]]},
    "two_layer": {"latents": [100, 50], "hidden": [[200, 200], [100, 100]]},
}
"""The paper's models in keys of our configuration."""
MODEL = "iwae_lab.models.hierarchical.HierarchicalModel"
OBJECTIVES = {"vae": "iwae_lab.objectives.vae.VAE", "iwae": "iwae_lab.objectives.iwae.IWAE"}
"""The class of each of the paper's objectives: any class can be given these names."""


@dataclass(frozen=True)
class Published:
    """One result of the paper's tables."""

    nll: float
    """test NLL, −L_5000, nats"""
    active_units: tuple[int, ...]
    """per stochastic layer, from the image upwards; counted on 500 training images"""


def _cells(text: str) -> list[Published]:
    cells = []
    for nll, units in (cell.split() for cell in text.split(",")):
        cells.append(Published(float(nll), tuple(int(count) for count in units.split("+"))))
    return cells


_COLUMNS = [(objective, k) for objective in ("vae", "iwae") for k in (1, 5, 50)]
# Protocol, model, then the cells of VAE k = 1, 5, 50 and IWAE k = 1, 5, 50. VAE and IWAE with k = 1 are one
# objective; the paper prints its runs of both.
_ROWS = [
    ("mnist/dynamic", "one_layer", "86.76 19, 86.47 20, 86.35 20, 86.76 19, 85.54 22, 84.78 25"),
    (
        "mnist/dynamic",
        "two_layer",
        "85.33 16+5, 85.01 17+5, 84.78 17+5, 85.33 16+5, 83.89 21+5, 82.90 26+7",
    ),
    ("omniglot/burda", "one_layer", "108.11 28, 107.62 28, 107.80 28, 108.11 28, 106.12 34, 104.67 41"),
    (
        "omniglot/burda",
        "two_layer",
        "107.58 28+4, 106.31 30+5, 106.30 30+5, 107.56 30+5, 104.79 38+6, 103.38 44+7",
    ),
    ("mnist/larochelle", "one_layer", "88.71 19, 88.83 19, 89.05 20, 88.71 19, 87.63 22, 87.10 24"),
    (
        "mnist/larochelle",
        "two_layer",
        "88.08 16+5, 87.63 17+5, 87.86 17+6, 88.08 16+5, 86.17 21+5, 85.32 24+7",
    ),
]

TABLE_1: dict[str, dict[tuple[str, str, int], Published]] = {}
"""Protocol → (model, objective, k) → what the paper reports."""
for _protocol, _model, _text in _ROWS:
    for (_objective, _k), _cell in zip(_COLUMNS, _cells(_text), strict=True):
        TABLE_1.setdefault(_protocol, {})[_model, _objective, _k] = _cell


SECOND_STAGES: dict[tuple[str, int, str, int], Published] = {
    ("vae", 1, "iwae", 50): Published(84.88, (22,)),
    ("iwae", 50, "vae", 1): Published(86.02, (23,)),
}
"""Section 5.2, one layer on mnist/dynamic: objective and k of the first stage and of the second → what it reports."""


def published(record: Record, objective: str, first: Record | None = None) -> Published | None:
    """The paper's result for a run as the cell of `objective`, or None where the paper has none.

    It has none for another protocol, objective or k, for a model of another class or with other layers, for coupled
    noise, or for a run that starts from another one, unless that is `first` and one of section 5.2. Optimizer, schedule
    and seed may differ.
    """
    if not _is_of_the_paper(record):
        return None
    if record.identity.get("init_from") is None:
        return TABLE_1.get(record.protocol, {}).get((record.model, objective, record.k))
    if first is None or first.identity.get("init_from") is not None or not _is_of_the_paper(first):
        return None
    same_data = first.identity["dataset"] == record.identity["dataset"]
    if (record.protocol, record.model, first.model) != ("mnist/dynamic", "one_layer", "one_layer") or not same_data:
        return None
    return SECOND_STAGES.get((first.objective, first.k, objective, record.k))


def has_its_objective(record: Record) -> bool:
    """Whether the record's objective is the paper's of that name, not another one with its name."""
    return record.config["objective"].get("_target_") == OBJECTIVES.get(record.objective, "none")


def _is_of_the_paper(record: Record) -> bool:
    architecture = {"_target_": MODEL, **ARCHITECTURES.get(record.model, {})}
    same_model = all(record.config["model"].get(key) == value for key, value in architecture.items())
    return same_model and has_its_objective(record) and record.config.get("noise", "iid") == "iid"
