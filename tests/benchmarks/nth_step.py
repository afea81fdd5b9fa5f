"""nth_step.py RUNS_DIR N [overrides]: `python train.py` up to the end of its Nth training step."""

import os
import runpy
import sys

from iwae_lab.runs.startup import load_run

if __name__ == "__main__":
    load_run()
    from iwae_lab.training.batches import Batches
    from iwae_lab.training.module import TrainingProgress

    runs_dir, steps, *overrides = sys.argv[1:]

    def stop(_: TrainingProgress, trainer: object, module: object, *__: object) -> None:
        if trainer.global_step >= int(steps):  # type: ignore[attr-defined]
            os._exit(0)

    Batches.TOGETHER = min(Batches.TOGETHER, int(steps))
    TrainingProgress.on_train_batch_end = stop  # type: ignore[method-assign]
    sys.argv = ["train.py", f"runs_dir={runs_dir}", *overrides]
    runpy.run_path("train.py", run_name="__main__")
