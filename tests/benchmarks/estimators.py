"""What each objective costs and how noisy its gradients are: python tests/benchmarks/estimators.py [names] [options]

Prints the tables of iwae_lab/objectives/README.md. Cost: CPU seconds of a step (forwards and backwards) of the
one-layer model on 20 images with k = 50, over those of an IWAE that evaluates p(x, z) as often, in turns. Noise, at
each k: the signal-to-noise ratio of the gradient in θ, with its variance over IWAE's; the same in φ, with its variance
over IWAE's and over DReG's with the same k. – where an objective refuses the model or so small a k, ~ before a number
with a standard error above a tenth of it. On 20 copies of a datum of the linear-Gaussian oracle, or with --run, and
without the cost, on 20 validation images of a run. On the oracle, gdreg has two layers, and disarm the sigmoid belief
network and VIMCO as its only rival. Names come before the options.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.objectives import objective  # noqa: E402
from helpers.oracle import BINARY_X, X, linear_gaussian, sigmoid_belief  # noqa: E402

from iwae_lab.console.errors import UserError  # noqa: E402
from iwae_lab.evaluation.diagnostics import SEED, GradientSNR, SignalToNoise, gradient_snr  # noqa: E402
from iwae_lab.models.base import LatentVariableModel  # noqa: E402
from iwae_lab.models.hierarchical import HierarchicalModel  # noqa: E402
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork  # noqa: E402
from iwae_lab.objectives.base import Objective  # noqa: E402
from iwae_lab.runs.trained import TrainedRun  # noqa: E402

COST_K, BATCH = 50, 20
BLOCKS = 10  # of draws, from which standard errors are
UNSURE = 0.1

Measured = list[GradientSNR]
"""of each block"""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where gradients are measured, and against which objectives."""

    model: LatentVariableModel
    x: Tensor
    rivals: tuple[str, ...] = ("iwae", "dreg")


def noise(name: str, place: Place, k: int, draws: int) -> Measured | None:
    """None where the objective refuses the model or k."""
    made = objective(name)
    try:
        for _ in range(50 if list(made.buffers()) else 0):  # until what it remembers of past minibatches has settled
            made(place.model, place.x, k)
        return [
            gradient_snr(made, place.model, place.x, k, draws=draws // BLOCKS, seed=SEED + block)
            for block in range(BLOCKS)
        ]
    except UserError:
        return None


def cost(name: str, rival: str, steps: int) -> float:
    """CPU seconds of a step over those of `rival` with as many evaluations of p(x, z), in turns."""
    torch.manual_seed(0)
    family = SigmoidBeliefNetwork if rival == "vimco" else HierarchicalModel
    model = family([50], [[200, 200]], mean_image=torch.full((784,), 0.2))
    x = torch.bernoulli(torch.full((BATCH, 784), 0.2))
    evaluated, log_joint = [0], model.log_joint
    model.log_joint = lambda x, z: evaluated.append(len(z[0])) or log_joint(x, z)

    def seconds(made: Objective, k: int) -> float:
        start = time.process_time()
        made(model, x, k).backward(model)
        return time.process_time() - start

    own, other = objective(name), objective(rival)
    spent, spent_by_rival = [], []
    for _ in range(3 + steps):
        evaluated.clear()
        spent.append(seconds(own, COST_K))
        spent_by_rival.append(seconds(other, sum(evaluated)))
    if own.compilable:
        return statistics.median(a / b for a, b in zip(spent[3:], spent_by_rival[3:], strict=True))
    return sum(spent[3:]) / sum(spent_by_rival[3:])  # where each step takes another number of samples


def pooled(blocks: Measured, part: str) -> SignalToNoise:
    found = [getattr(block, part) for block in blocks]
    mean, variance = (torch.stack([getattr(f, name) for f in found]).mean(0) for name in ("mean", "variance"))
    return SignalToNoise(mean, variance, sum(f.draws for f in found))


def number(of: Callable[[list[int]], float]) -> str:
    """`of` all blocks, with ~ where the jackknife over blocks says that it is not known well."""
    everyone = list(range(BLOCKS))
    found = of(everyone)
    without = torch.tensor([of([b for b in everyone if b != left_out]) for left_out in everyone])
    error = (without.var(correction=0) * (BLOCKS - 1)).sqrt().item()
    rounded = f"{found:.2g}" if found < 100 else f"{float(f'{found:.2g}'):,.0f}"
    return f"{'~' if not error < UNSURE * found else ''}{rounded}"


def cell(own: Measured | None, part: str, rivals: list[Measured | None]) -> str:
    if own is None:
        return "–"

    def over(rival: Measured) -> Callable[[list[int]], float]:
        return lambda chosen: (
            pooled([own[b] for b in chosen], part).variance.sum()
            / pooled([rival[b] for b in chosen], part).variance.sum()
        ).item()

    snr = number(lambda chosen: pooled([own[b] for b in chosen], part).overall)
    return " · ".join([snr, *(f"{number(over(rival))}×" for rival in rivals if rival)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="names", help="objectives; all by default")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 50])
    parser.add_argument("--draws", type=int, default=1000, help=f"gradients per variance, {BLOCKS} or more")
    parser.add_argument("--steps", type=int, default=30, help="timed for the cost")
    parser.add_argument("--run", type=Path, help="the folder of a run, whose model takes the place of the oracle")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.names or sorted(path.stem for path in (ROOT / "conf/objective").glob("*.yaml"))
    if options.run:
        trained = TrainedRun.read(options.run)
        usual = Place(trained.model, trained.data.val[:BATCH].to(next(trained.model.parameters())))
        places = dict.fromkeys(names, usual)
    else:
        usual, x = Place(linear_gaussian(1), X.expand(BATCH, -1)), BINARY_X.expand(BATCH, -1)
        places = dict.fromkeys(names, usual) | {
            "gdreg": Place(linear_gaussian(2), usual.x),
            "disarm": Place(sigmoid_belief(1), x, ("vimco",)),
        }
    heads = ["objective", *([] if options.run else ["cost"]), *(f"k={k}: {part}" for k in options.k for part in "θφ")]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    usual_rivals = {k: [noise(rival, usual, k, options.draws) for rival in usual.rivals] for k in options.k}
    for name in names:
        place = places[name]
        cells = [f"`{name}`", *([] if options.run else [f"{cost(name, place.rivals[0], options.steps):.2f}"])]
        for k in options.k:
            rivals = usual_rivals[k] if place is usual else [noise(r, place, k, options.draws) for r in place.rivals]
            own = noise(name, place, k, options.draws)
            cells += [cell(own, "generative", rivals[:1]), cell(own, "inference", rivals)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
