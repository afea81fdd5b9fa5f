"""Train, measure and compare importance weighted autoencoders (Burda et al., arXiv 1509.00519).

    model = iwae_lab.HierarchicalModel([50], [[200, 200]], mean_image=images.mean(0))
    iwae_lab.IWAE()(model, images.bernoulli(), k=50).backward(model)

Names are imported when they are first used: importing the package takes no time.
"""

import importlib
from typing import Any

_MODULES = {
    "bounds": ["elbo", "ess", "iwae_bound", "normalized_weights"],
    "models.base": ["LatentVariableModel"],
    "models.conv": ["ConvModel"],
    "models.hierarchical": ["HierarchicalModel"],
    "models.sigmoid_belief": ["SigmoidBeliefNetwork"],
    "objectives.base": ["Estimate", "Objective"],
    "objectives.dreg": ["DReG"],
    "objectives.iwae": ["IWAE"],
    "objectives.stl": ["STL"],
    "objectives.vae": ["VAE"],
    "evaluation.active_units": ["active_units"],
    "evaluation.ais": ["ais"],
    "evaluation.likelihood": ["likelihood"],
    "runs.trained": ["TrainedRun", "load"],
    "compare.frame": ["load_all"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"iwae_lab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
