"""A GPU for each of the jobs that run at the same time on one machine."""

import os

from hydra.core.hydra_config import HydraConfig

__all__ = ["WORKER", "take_gpu"]

WORKER = "IWAE_LAB_WORKER"  # set in each worker of joblib: its number


def take_gpu() -> None:
    """Restrict this process to one GPU if other jobs run beside it. Call it before any use of CUDA.

    With more jobs than GPUs, jobs share them in turn.
    """
    hydra = HydraConfig.get()
    if WORKER in os.environ:
        index = int(os.environ[WORKER])
    elif hydra.launcher._target_.endswith(".LocalLauncher"):  # submitit_local, which runs all jobs at once
        index = hydra.job.num
    else:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch  # here, since the multirun's own process needs nothing but WORKER

        gpus = [str(gpu) for gpu in range(torch.cuda.device_count())]
    else:
        gpus = [gpu for gpu in visible.split(",") if gpu]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
