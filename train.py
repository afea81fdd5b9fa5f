"""Train and evaluate one model, or a multirun of them: `python train.py --help`."""

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from iwae_lab.config import register
from iwae_lab.errors import interrupt_on_signals, one_line_errors
from iwae_lab.startup import load_run
from iwae_lab.sweep import reported, run_job

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        run_job(cfg)
        return
    with one_line_errors():
        load_run()(cfg)


if __name__ == "__main__":
    interrupt_on_signals()
    with one_line_errors(), reported():
        main()
