"""Train and evaluate one model, or a multirun of them: `python train.py --help`."""

import os
import sys
from argparse import ArgumentParser
from functools import partialmethod

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from iwae_lab.console.explain import one_line_errors
from iwae_lab.console.signals import interrupt_on_signals
from iwae_lab.evaluation.keys import VAL_NLL
from iwae_lab.loggers.wandb_agent import overrides_of
from iwae_lab.runs.config import register
from iwae_lab.runs.launch import prepare_job
from iwae_lab.runs.startup import load_run
from iwae_lab.runs.sweep import reported, run_job

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """The validation NLL in nats, for Hydra's sweepers to minimise."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_job(cfg)
    with one_line_errors():
        prepare_job()
        record = load_run()(cfg)
    from iwae_lab.runs.summary import print_next  # rich, which --help needn't wait for

    print_next(record, os.path.expanduser(cfg.runs_dir))
    return record.metrics[VAL_NLL]


if __name__ == "__main__":
    interrupt_on_signals()
    sys.path.append(os.getcwd())  # for objectives, models and datasets of the user's own
    ArgumentParser.parse_args = ArgumentParser.parse_intermixed_args  # so that Hydra's options may follow overrides
    # else --experiment would be short for --experimental-rerun
    ArgumentParser.__init__ = partialmethod(ArgumentParser.__init__, allow_abbrev=False)
    if "WANDB_SWEEP_ID" in os.environ:
        sys.argv[1:] = overrides_of(sys.argv[1:])
    with one_line_errors(), reported():
        main()
