"""How fast iwae_lab is here, on two threads: python tests/benchmarks/speed.py [rounds] [results.json]

Every case is timed in turn with plain_loop.py, `rounds` times (3), short steps twice as often; ratios are medians over
the rounds. They are in fp32 unless it says bf16; `iwae_resampled` is compiled, in bf16 where the processor has it.
Training is timed in the command as users run it, between its first epoch and its last; the NLL in the model and data of
a run, as `python -m iwae_lab.evaluate` reads them. Run it on a quiet machine.

Where PEERS is the Python of an environment with torch, jax, optax and pythae, loops in JAX and with pythae's IWAE are
timed beside them.
"""

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

ROOT = Path(__file__).parent.parent.parent
HERE = "tests/benchmarks"
TRAINING = {  # (layers, k, batch size): the ratio to reach
    (1, 50, 100): 2.2,
    (1, 50, 20): 2.0,
    (2, 50, 100): 2.2,
    (1, 5, 20): 1.8,
    (1, 1, 20): 1.8,
}
SMALL_K = 5  # up to which steps are short; they vary most, so take twice as many rounds
MODELS = {1: "one_layer", 2: "two_layer"}
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()
FASTEST = "bf16" if HAS_BF16 else "32"
PEERS = os.environ.get("PEERS", "")


def python(*arguments: str, executable: str = sys.executable) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
    return done.stdout


def train(runs: str, layers: int, *overrides: str) -> Path:
    """A run that is hardly evaluated; gives its folder."""
    python(
        "train.py", f"model={MODELS[layers]}", "optimizer=adam", "threads=2", "logger=csv", "evaluation.k=1",
        "evaluation.images=2",
        f"runs_dir={runs}", *overrides,
    )  # fmt: skip
    (metrics,) = Path(runs).glob("*/metrics.csv")
    return metrics.parent


def training_speed(layers: int, k: int, batch: int, plain: float, *overrides: str) -> float:
    """Images per second of a run of about ten seconds at the speed `plain`."""
    epochs = 2 + round(10 * plain / 4000)
    with tempfile.TemporaryDirectory() as runs:
        size = (f"k={k}", f"schedule.batch_size={batch}", f"schedule.epochs={epochs}")
        with (train(runs, layers, *size, *overrides) / "metrics.csv").open(newline="") as file:
            return statistics.median(float(row["images_per_second"]) for row in list(csv.DictReader(file))[1:])


def evaluation_speed(run: Path, compile: str, precision: str) -> float:
    """Rows (image × sample) per second of the NLL of a run."""
    return float(python(f"{HERE}/evaluation.py", "speed", str(run), compile, precision))


def ratios(
    plain: Callable[[], float], cases: dict[str, Callable[[float], float]], rounds: int
) -> tuple[float, dict[str, list[float]]]:
    """The plain loop's median speed, and each case's speeds as ratios to it, the mean of just before and just after."""
    plain_speeds = [plain()]
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, measure in cases.items():
            speed = measure(plain_speeds[-1])
            plain_speeds.append(plain())
            found[name].append(speed / statistics.mean(plain_speeds[-2:]))
    return statistics.median(plain_speeds), found


def peers(kind: str, *numbers: int) -> dict[str, Callable[[float], float]]:
    """Other people's code for the case, by name."""

    def speed(script: str) -> Callable[[float], float]:
        return lambda _: float(python(f"{HERE}/{script}", kind, *map(str, numbers), executable=PEERS))

    scripts = {"JAX": "jax_loop.py"} | ({"pythae": "pythae_loop.py"} if kind == "train" and numbers[0] == 1 else {})
    return {name: speed(script) for name, script in scripts.items()} if PEERS else {}


def training_case(layers: int, k: int, batch: int, rounds: int) -> dict[str, Any]:
    def speed(*overrides: str) -> Callable[[float], float]:
        return lambda plain: training_speed(layers, k, batch, plain, *overrides)

    plain, found = ratios(
        lambda: float(python(f"{HERE}/plain_loop.py", "train", str(layers), str(k), str(batch))),
        {
            "eager": speed("precision=32", "compile=false"),
            "compiled": speed("precision=32", "compile=true"),
            **({"compiled, bf16": speed("precision=bf16", "compile=true")} if HAS_BF16 else {}),
            **(
                {"`iwae_resampled`": speed(f"precision={FASTEST}", "compile=true", "objective=iwae_resampled")}
                if k > SMALL_K
                else {}
            ),
            **peers("train", layers, k, batch),
        },
        rounds if k > SMALL_K else 2 * rounds,
    )
    case = f"{layers} layer{'s' * (layers > 1)}, k={k}, batch {batch}, images/s"
    return {"case": case, "plain loop": plain, "target": TRAINING[layers, k, batch], "ratios": found}


def evaluation_case(layers: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as runs:
        run = train(runs, layers, "k=1", "schedule.epochs=1", "compile=false")

        def speed(compile: str, precision: str) -> Callable[[float], float]:
            return lambda _: evaluation_speed(run, compile, precision)

        plain, found = ratios(
            lambda: float(python(f"{HERE}/plain_loop.py", "eval", str(layers))),
            {
                "eager": speed("false", "32"),
                "compiled": speed("true", "32"),
                **({"compiled, bf16": speed("true", "bf16")} if HAS_BF16 else {}),
                **peers("eval", layers),
            },
            rounds,
        )
    case = f"NLL, {layers} layer{'s' * (layers > 1)}, rows/s"
    return {"case": case, "plain loop": plain, "target": 1.8, "ratios": found}


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    python(*arguments)
    return time.perf_counter() - start


def start_up(rounds: int) -> list[dict[str, Any]]:
    def median(*arguments: str) -> float:
        return statistics.median(seconds(*arguments) for _ in range(rounds))

    with tempfile.TemporaryDirectory() as runs:
        first_step = median(f"{HERE}/nth_step.py", runs, "1")
    return [
        {"case": "python train.py --help, s", "target": 3.0, "value": median("train.py", "--help")},
        {"case": "python train.py to its first step, s", "target": 6.0, "value": first_step},
    ]


def compiling() -> list[dict[str, Any]]:
    """What compiling costs in the first job of a sweep, and what in the next, which finds its code on disk."""
    found = {}
    folder = tempfile.TemporaryDirectory
    with folder() as runs, folder() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        for name, mode in (("eager", "false"), ("auto", "auto"), ("compiled", "true"), ("compiled again", "true")):
            found[name] = seconds(
                f"{HERE}/nth_step.py", f"{runs}/{name}", "1000", "objective=vae", "k=1", "schedule.batch_size=20",
                f"compile={mode}", "threads=2", "logger=none",
            )  # fmt: skip
    targets = {"auto": 1.1 * found["eager"], "compiled again": 10 + found["eager"]}
    return [
        {"case": f"python train.py, k=1, to its 1,000th step, {name}, s", "target": targets.get(name), "value": value}
        for name, value in found.items()
    ]


def memory() -> list[dict[str, Any]]:
    return [
        {"case": f"peak memory of the NLL at k={k}, MB", "target": 300.0,
         "value": float(python(f"{HERE}/evaluation.py", "memory", str(k)))}
        for k in (500, 50_000)
    ]  # fmt: skip


def machine() -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    packages = ("torch", "pytorch-lightning", "iwae-lab")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(found: dict[str, Any]) -> str:
    """A Markdown table of what `main` measured."""
    columns = list(dict.fromkeys(name for row in found["speed"] for name in row["ratios"]))
    lines = [
        ", ".join(f"{key} {value}" for key, value in found["machine"].items()), "",
        "| case | plain loop | " + " | ".join(f"{name}, ×" for name in columns) + " | target, × |",
        "|---|---|" + "---|" * len(columns) + "---|",
    ]  # fmt: skip
    for row in found["speed"]:
        cells = [f"{statistics.median(row['ratios'][name]):.2f}" if name in row["ratios"] else "–" for name in columns]
        lines.append(f"| {row['case']} | {row['plain loop']:,.0f} | {' | '.join(cells)} | {row['target']} |")
    lines += ["", "| case | measured | target |", "|---|---|---|"]
    for row in found["other"]:
        target = "" if row["target"] is None else f"≤ {row['target']:.1f}"
        lines.append(f"| {row['case']} | {row['value']:.1f} | {target} |")
    return "\n".join(lines)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = {
        "machine": machine(),
        "speed": [training_case(*case, rounds) for case in TRAINING] + [evaluation_case(n, rounds) for n in (1, 2)],
        "other": start_up(rounds) + compiling() + memory(),
    }
    print(show(found))
    if len(sys.argv) > 2:
        partial = Path(sys.argv[2] + ".partial")
        partial.write_text(json.dumps(found, indent=2) + "\n")
        partial.replace(sys.argv[2])


if __name__ == "__main__":
    main()
