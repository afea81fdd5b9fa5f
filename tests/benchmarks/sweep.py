"""Many tiny jobs over one runs folder: python tests/benchmarks/sweep.py [jobs=200] [workers=8].

Two overlapping multiruns under joblib, the second of which begins in the middle of the first one's seeds, at once; the
folder is compared again and again while they run. Prints how long it took, the most memory that each multirun's own
process held, and raises an error for a run that is lost, trained twice or not comparable.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TINY = [
    "experiment=tiny", "schedule.epochs=1", "model.latents=[4]", "model.hidden=[[8]]", "logger=csv", "threads=1",
]  # fmt: skip


def start(runs: Path, workers: int, seeds: range) -> subprocess.Popen[bytes]:
    given = ["-m", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}", *TINY, f"runs_dir={runs}"]
    with (runs / f"from-{seeds[0]}.txt").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "train.py", *given, f"seed={','.join(map(str, seeds))}"],
            cwd=ROOT,
            stdout=said,
            stderr=said,
        )


def memory(process: subprocess.Popen[bytes]) -> float | None:
    """MiB that a process holds; None when it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)


def trainings(runs: Path) -> int:
    """How many times a run has begun, in all logs."""
    return sum(log.read_text().count(f"INFO {log.parent}\n") for log in runs.glob("*/log.txt"))


def main(jobs: int = 200, workers: int = 8) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder).resolve()
        begin = time.monotonic()
        sweeps = [start(runs, workers, range(jobs * 3 // 4)), start(runs, workers, range(jobs // 4, jobs))]
        held: list[list[float]] = [[] for _ in sweeps]
        compared = 0
        while any(sweep.poll() is None for sweep in sweeps):
            for sweep, sizes in zip(sweeps, held, strict=True):
                if size := memory(sweep):
                    sizes.append(size)
            if list(runs.glob("*/result.json")):
                command = [sys.executable, "-m", "iwae_lab.compare", str(runs)]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(done.stderr)
                compared += 1
            time.sleep(2)
        seconds = time.monotonic() - begin
        found = [json.loads(path.read_text()) for path in runs.glob("*/result.json")]
        seeds = sorted(record["seed"] for record in found if record["status"] == "finished")
        begun = trainings(runs)
        codes = [sweep.returncode for sweep in sweeps]
        if (seeds, begun, codes) != (list(range(jobs)), jobs, [0, 0]):
            raise RuntimeError(f"finished {len(seeds)} of {jobs}, begun {begun}, exit codes {codes}")
        print(
            f"{jobs} jobs in two overlapping multiruns, {workers} workers each: {seconds:.0f} s, none lost or repeated"
        )
        print(f"compared {compared} times meanwhile")
        for number, sizes in enumerate(held, 1):
            half = len(sizes) // 2
            print(f"multirun {number}: {max(sizes[:half]):.0f} MiB in the first half, then {max(sizes[half:]):.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
