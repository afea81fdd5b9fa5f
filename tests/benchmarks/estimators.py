"""What each objective costs and how noisy its gradients are: python tests/benchmarks/estimators.py [names] [options]

Prints the table of iwae_lab/objectives/README.md. Cost: seconds of a step (forwards and backwards) of the one-layer
model on 20 images with k = 50, over those of IWAE with as many samples. Noise, at each k: the signal-to-noise ratio of
the gradient, in θ with its variance over IWAE's, in φ with its variance over IWAE's and over DReG's with the same k; –
where an objective refuses so small a k. On the linear-Gaussian oracle with one layer, or with --run on 20 validation
images of a run. DisARM is measured on the sigmoid belief oracle, against VIMCO. Names come before the options.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.oracle import BINARY_X, X, linear_gaussian, sigmoid_belief  # noqa: E402

from iwae_lab.console.errors import UserError  # noqa: E402
from iwae_lab.evaluation.diagnostics import GradientSNR, gradient_snr  # noqa: E402
from iwae_lab.models.base import LatentVariableModel  # noqa: E402
from iwae_lab.models.hierarchical import HierarchicalModel  # noqa: E402
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork  # noqa: E402
from iwae_lab.objectives.base import Objective  # noqa: E402
from iwae_lab.runs.config import build  # noqa: E402
from iwae_lab.runs.trained import TrainedRun  # noqa: E402

COST_K, COST_BATCH = 50, 20


def objective(name: str) -> Objective:
    node = OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/objective/{name}.yaml"))
    return build(Objective, node, "objective")


def noise(name: str, model: LatentVariableModel, x: Tensor, k: int, draws: int) -> GradientSNR | None:
    try:
        return gradient_snr(objective(name), model, x, k, draws=draws)
    except UserError:
        return None  # needs a larger k


def cost(name: str, rival: str, bernoulli: bool, steps: int) -> float:
    """Seconds of a step over those of `rival` with as many samples, in turns."""
    torch.manual_seed(0)
    family = SigmoidBeliefNetwork if bernoulli else HierarchicalModel
    model = family([50], [[200, 200]], mean_image=torch.full((784,), 0.2))
    x = torch.bernoulli(torch.full((COST_BATCH, 784), 0.2))
    drawn, draw = [0], model.draw
    model.draw = lambda x, k, *args, **kwargs: drawn.append(k) or draw(x, k, *args, **kwargs)

    def seconds(made: Objective, k: int) -> float:
        start = time.perf_counter()
        made(model, x, k).backward(model)
        return time.perf_counter() - start

    own, other = objective(name), objective(rival)
    spent, spent_by_rival = [], []
    for _ in range(3 + steps):
        drawn.clear()
        spent.append(seconds(own, COST_K))
        spent_by_rival.append(seconds(other, sum(drawn)))
    if own.compilable:
        return statistics.median(a / b for a, b in zip(spent[3:], spent_by_rival[3:], strict=True))
    return sum(spent[3:]) / sum(spent_by_rival[3:])  # where each step takes another number of samples


def cell(found: GradientSNR | None, part: str, *rivals: GradientSNR) -> str:
    if found is None:
        return "–"
    own = getattr(found, part)
    ratios = [f"{(own.variance.sum() / getattr(rival, part).variance.sum()).item():.2g}×" for rival in rivals]
    return " ".join([f"{own.overall:.2g}", *ratios])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = sorted(path.stem for path in (ROOT / "conf/objective").glob("*.yaml"))
    parser.add_argument("names", nargs="*", metavar="names", help="objectives; all by default")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 50])
    parser.add_argument("--draws", type=int, default=1000, help="gradients of which each variance is")
    parser.add_argument("--steps", type=int, default=30, help="timed for the cost")
    parser.add_argument("--run", type=Path, help="the folder of a run, whose model takes the place of the oracle")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.run:
        trained = TrainedRun.read(options.run, [])
        model, x = trained.model, trained.data.val[:COST_BATCH].to(next(trained.model.parameters()))
    else:
        model, x = linear_gaussian(1), X.expand(COST_BATCH, -1)
    print("| objective | cost |" + "".join(f" k={k}: θ | φ |" for k in options.k))
    print("|---" * (2 + 2 * len(options.k)) + "|")
    rivals = {k: [noise(name, model, x, k, options.draws) for name in ("iwae", "dreg")] for k in options.k}
    for name in options.names or found:
        bernoulli = name == "disarm"
        cells = []
        for k in options.k:
            if bernoulli:
                where = sigmoid_belief(1), BINARY_X.expand(COST_BATCH, -1)
                against = [r for r in [noise("vimco", *where, k, options.draws)] if r]
            else:
                where, against = (model, x), rivals[k]
            own = noise(name, *where, k, options.draws)
            cells += [cell(own, "generative", *against[:1]), cell(own, "inference", *against)]
        ratio = cost(name, "vimco" if bernoulli else "iwae", bernoulli, options.steps)
        print(f"| `{name}` | {ratio:.2f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
