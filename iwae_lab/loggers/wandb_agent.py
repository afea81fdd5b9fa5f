"""Rewrites the command line of a W&B sweep agent. Imports nothing, since train.py imports it at every start."""

__all__ = ["DESCRIPTIVE", "OVERRIDES", "overrides_of"]

OVERRIDES = ("dataset", "model", "objective", "k", "schedule", "seed")
"""keys of a W&B run's config that are overrides"""
DESCRIPTIVE = ("run_id", "protocol", "epochs", "binarization", "parameters")
"""and those that are not"""


def overrides_of(arguments: list[str]) -> list[str]:
    """The arguments of a sweep's run as overrides that Hydra takes.

    An agent that repeats a run passes all keys of its W&B config beside those of the sweep's command. Drops the keys
    that only describe the run, and all but the last of a key given twice.
    """
    kept: dict[str, str] = {}
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if equals and key in (*DESCRIPTIVE, "_wandb"):
            continue
        name = key if equals and not key.startswith("-") else argument
        kept.pop(name, None)
        kept[name] = argument
    return list(kept.values())
