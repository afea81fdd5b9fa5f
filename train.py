"""Train and evaluate one model, or a multirun of them: `python train.py --help`."""

import contextlib

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from iwae_lab.config import register
from iwae_lab.errors import one_line_errors

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    from iwae_lab.run import run  # torch and Lightning, which --help does not need

    alone = HydraConfig.get().mode == RunMode.RUN  # a sweep needs the error itself, to go on with its other jobs
    with one_line_errors() if alone else contextlib.nullcontext():
        run(cfg)


if __name__ == "__main__":
    with one_line_errors():
        main()
