"""The paper's tables on one GPU, several jobs at a time: python tests/benchmarks/gpu/tables.py RUNS_DIR MINUTES

Jobs start in the order of worth and are interrupted when the time is over; the same command resumes them. What
sweeps/records holds is not run again, except for section 5.2, which starts from exported weights here. Under MPS of
NVIDIA kernels of several processes run at once.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent.parent
EPOCHS, AT_A_TIME = 200, 12
FAST = f"experiment=fast schedule.epochs={EPOCHS}"
SECOND = (
    "schedule=paper_second_stage schedule.epochs=100 schedule.batch_size=100 schedule.learning_rate=3e-4 optimizer=soap"
)
COMMON = "logger=csv compile=true precision=32 threads=1"


def cell(objective, k, layers, seed, more=""):
    return f"dataset=mnist objective={objective} k={k} model={layers}_layer {FAST} seed={seed} {more}".strip()


def start(cell):
    """init_from= the committed weights of a cell of table 1."""
    (weights,) = (ROOT / "sweeps" / "records" / "weights").glob(f"mnist-{cell}-s0-*.safetensors")
    return f"init_from={weights}"


def jobs():
    """Commands, without `COMMON`."""
    yield cell("iwae", 50, "two", 0, "schedule.constant=0.3 schedule.batch_size=200 schedule.epochs=400")
    for layers, epochs in (("two", 40), ("one", 60)):
        rates = "schedule.warmup=0 schedule.constant=0 schedule.learning_rate=0.001"
        yield cell("iwae", 500, layers, 0, f"{start(f'{layers}_layer-iwae-k50')} schedule.epochs={epochs} {rates}")
    for seed in (0, 1, 2):
        for layers in ("one", "two"):
            for objective, k in (("iwae", 50), ("vae", 50), ("iwae", 5), ("vae", 5), ("vae", 1)):
                yield cell(objective, k, layers, seed)
    yield f"dataset=mnist objective=vae k=1 {SECOND} {start('one_layer-iwae-k50')}"
    yield f"dataset=mnist objective=iwae k=50 {SECOND} {start('one_layer-vae-k1')}"
    for objective, k in (("iwae", 50), ("vae", 1)):
        yield cell(objective, k, "one", 0, "dataset.binarization=static")
        yield cell(objective, k, "one", 0).replace("dataset=mnist", "dataset=omniglot")
    for experiment in ("authors", "paper"):
        yield f"experiment={experiment} objective=iwae k=50 schedule.epochs=20"
    yield "dataset=mnist experiment=fast objective=iwae k=50 schedule.epochs=20"
    for objective in sorted(path.stem for path in (ROOT / "conf" / "objective").glob("*.yaml")):
        budget = ROOT / "sweeps" / "budget" / f"{objective}.yaml"
        k = yaml.safe_load(budget.read_text())["k"] if budget.exists() else 10
        if objective != "disarm":  # for Bernoulli latents
            yield f"dataset=mnist experiment=fast objective={objective} k={k} schedule.epochs=20"


def main():
    runs, deadline = Path(sys.argv[1]), time.monotonic() + 60 * float(sys.argv[2])
    for record in (ROOT / "sweeps" / "records").glob("*/*/result.json"):
        shutil.copytree(record.parent, runs / record.parent.name, dirs_exist_ok=True)
    waiting, running, lock = list(jobs()), set(), threading.Lock()

    def work():
        while True:
            with lock:
                if not waiting or time.monotonic() > deadline:
                    return
                command = waiting.pop(0)
            begun = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "train.py", *command.split(), *COMMON.split(), f"runs_dir={runs}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            running.add(process)
            said = process.communicate()[0]
            running.discard(process)
            print(f"{time.monotonic() - begun:6.0f} s, exit {process.returncode}: {command}", flush=True)
            if process.returncode:
                print("      " + said[-600:].replace("\n", "\n      "), flush=True)

    threads = [threading.Thread(target=work) for _ in range(AT_A_TIME)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        if time.monotonic() > deadline:
            for process in list(running):
                process.send_signal(signal.SIGINT)
            break
    for thread in threads:
        thread.join(10)
    os._exit(0)


if __name__ == "__main__":
    main()
