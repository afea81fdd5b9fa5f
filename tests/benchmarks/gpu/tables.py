"""The paper's tables on one GPU, several jobs at a time: python tests/benchmarks/gpu/tables.py RUNS_DIR MINUTES

Jobs start in the order of worth and are interrupted when the time is over; the same command resumes them. What
sweeps/records holds is not run again. Under MPS of NVIDIA kernels of several processes run at once.
"""

import os
import re
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


def jobs():
    """Chains of commands, each after the other; {n} is the folder of the chain's n-th run."""
    yield [
        cell("iwae", 50, "two", 0),
        cell(
            "iwae",
            500,
            "two",
            0,
            "init_from={0} schedule.epochs=40 schedule.warmup=0 schedule.constant=0 schedule.learning_rate=0.001",
        ),
    ]
    yield [cell("vae", 50, "two", 0)]
    yield [
        cell("iwae", 50, "one", 0),
        f"dataset=mnist objective=vae k=1 {SECOND} init_from={{0}}",
        cell(
            "iwae",
            500,
            "one",
            0,
            "init_from={0} schedule.epochs=60 schedule.warmup=0 schedule.constant=0 schedule.learning_rate=0.001",
        ),
    ]
    yield [cell("vae", 1, "one", 0), f"dataset=mnist objective=iwae k=50 {SECOND} init_from={{0}}"]
    yield [cell("iwae", 5, "two", 0)]
    yield [cell("vae", 5, "two", 0)]
    yield [cell("vae", 1, "two", 0)]
    yield [cell("vae", 50, "one", 0)]
    yield [cell("iwae", 5, "one", 0)]
    yield [cell("vae", 5, "one", 0)]
    for objective, k in (("iwae", 50), ("vae", 1)):
        yield [cell(objective, k, "one", 0, "dataset.binarization=static")]
    for objective, k in (("iwae", 50), ("vae", 1)):
        yield [cell(objective, k, "one", 0).replace("dataset=mnist", "dataset=omniglot")]
    for experiment in ("authors", "paper"):
        yield [f"experiment={experiment} objective=iwae k=50 schedule.epochs=20"]
    yield ["dataset=mnist experiment=fast objective=iwae k=50 schedule.epochs=20"]
    for seed in (1, 2):
        for layers in ("one", "two"):
            for objective, k in (("vae", 1), ("iwae", 5), ("vae", 5), ("iwae", 50), ("vae", 50)):
                yield [cell(objective, k, layers, seed)]
    for objective in sorted(path.stem for path in (ROOT / "conf" / "objective").glob("*.yaml")):
        budget = ROOT / "sweeps" / "budget" / f"{objective}.yaml"
        k = yaml.safe_load(budget.read_text())["k"] if budget.exists() else 10
        if objective != "disarm":  # for Bernoulli latents
            yield [f"dataset=mnist experiment=fast objective={objective} k={k} schedule.epochs=20"]


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
                chain = waiting.pop(0)
            folders = []
            for command in chain:
                arguments = [*command.format(*folders).split(), *COMMON.split(), f"runs_dir={runs}"]
                begun = time.monotonic()
                process = subprocess.Popen(
                    [sys.executable, "train.py", *arguments],
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
                    break
                folders += re.findall(rf"{re.escape(str(runs))}/[\w.+-]+", said)[:1]

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
