"""GPUs for jobs that run at the same time on one machine: each has its own, as long as there are enough."""

import os
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig

__all__ = ["WORKER", "share", "take_gpus"]

WORKER = "IWAE_LAB_WORKER"  # set in each worker of joblib: its number


def share(gpus: Sequence[str], index: int, devices: int) -> Sequence[str]:
    """Those of `gpus` that are for job `index` of those that run at a time, where each trains on `devices` of them."""
    shares = max(1, len(gpus) // max(1, devices))  # how many devices may be is checked later
    return gpus[index % shares :: shares]


def take_gpus(devices: int) -> None:
    """Leave this process, before it uses CUDA, its share of the GPUs that it sees, if others run beside it."""
    hydra = HydraConfig.get()
    if WORKER in os.environ:
        index = int(os.environ[WORKER])
    elif hydra.launcher._target_.endswith(".LocalLauncher"):  # submitit_local, where all jobs run at once
        index = hydra.job.num
    else:
        return
    import torch  # here, since the multirun's own process needs but WORKER

    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        [str(i) for i in range(torch.cuda.device_count())] if seen is None else [gpu for gpu in seen.split(",") if gpu]
    )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share(gpus, index, devices))
