"""Everything a GPU is wanted for, in the order of worth: python tests/benchmarks/gpu OUT MINUTES [PART...]

Parts: check (what must hold), evaluation (seconds for L_5000), steps (microseconds), tables (the paper's, for what is
left of the minutes). Each writes OUT/<part>.txt; runs go to OUT/runs, and the same command resumes them.
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
STEPS = [
    f"{layers} {k} {batch} {optimizer} true {precision} graphs {stack}"
    for optimizer, precision, stack, sizes in [
        ("adam", "bf16", 1, [(1, 1, 20), (1, 5, 20), (1, 50, 100), (2, 1, 20), (2, 50, 100)]),
        ("adam", "bf16", 4, [(1, 1, 20), (1, 5, 20)]),
        ("adam", "32", 1, [(1, 1, 20), (1, 50, 100)]),
        ("soap", "32", 1, [(1, 1, 20), (1, 50, 100)]),
        ("adam", "bf16", 12, [(1, 1, 20)]),
    ]
    for layers, k, batch in sizes
]


def main() -> None:
    out, minutes, parts = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    deadline = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)

    def part(name: str, *commands: str, seconds: float) -> None:
        """Run scripts of this folder, one after the other, for at most `seconds` each, if the part is wanted."""
        if parts and name not in parts:
            return
        with (out / f"{name}.txt").open("a") as said:
            for command in commands:
                script, *arguments = command.split()
                left = min(seconds, deadline - time.monotonic())
                if left > 0:
                    call = [sys.executable, str(HERE / script), *arguments]
                    try:
                        subprocess.run(call, stdout=said, stderr=subprocess.STDOUT, timeout=left)
                    except subprocess.TimeoutExpired:
                        print(f"{command}: stopped after {left:.0f} s", file=said)
        print(f"{name}: {out / name}.txt", flush=True)

    part("check", "check.py", seconds=400)
    part("evaluation", "evaluation.py", seconds=200)
    part("steps", *(f"steps.py {step}" for step in STEPS), seconds=60)
    left = deadline - time.monotonic()
    part("tables", f"tables.py {out / 'runs'} {left / 60 - 0.5:.1f}", seconds=left)


if __name__ == "__main__":
    main()
