"""first_step.py RUNS_DIR: `python train.py` up to the end of its first training step."""

import os
import runpy
import sys

from iwae_lab.runs.startup import load_run

if __name__ == "__main__":
    load_run()
    from iwae_lab.training.batches import Batches
    from iwae_lab.training.module import TrainingProgress

    Batches.TOGETHER = 1
    TrainingProgress.on_train_batch_end = lambda *_: os._exit(0)  # type: ignore[method-assign]
    sys.argv = ["train.py", f"runs_dir={sys.argv[1]}"]
    runpy.run_path("train.py", run_name="__main__")
