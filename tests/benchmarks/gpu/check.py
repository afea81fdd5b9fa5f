"""What must hold on a GPU: python tests/benchmarks/gpu/check.py

Bounds and gradients agree with float64 on the CPU; every objective trains; steps in graphs are those of calls; training
resumed is training not interrupted, to the last bit.
"""

import copy
import itertools
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.models.hierarchical import HierarchicalModel
from iwae_lab.models.sigmoid_belief import SigmoidBeliefNetwork
from iwae_lab.objectives.base import Objective
from iwae_lab.objectives.iwae import IWAE
from iwae_lab.runs.config import Node
from iwae_lab.training.batches import Batches
from iwae_lab.training.gradients import Gradients
from iwae_lab.training.module import Training
from iwae_lab.training.optimizers.adam import Adam
from iwae_lab.training.optimizers.adam_authors import AdamAuthors
from iwae_lab.training.optimizers.muon import Muon
from iwae_lab.training.optimizers.soap import Soap
from iwae_lab.training.schedules import Constant
from iwae_lab.training.stacked import StackedGradients
from iwae_lab.training.step import Step
from iwae_lab.training.steps import Steps

CONF = Path(__file__).parents[3] / "conf" / "objective"
SIZES = {"one": ([50], [[200, 200]]), "two": ([100, 50], [[200, 200], [100, 100]])}
RATE = 2**-10  # the same in fp32, in which graphs keep it
failures = []


def report(what, holds, said=""):
    print("ok  " if holds else "FAIL", what, said, flush=True)
    if not holds:
        failures.append(what)


def hierarchical(size):
    torch.manual_seed(0)
    return HierarchicalModel(*SIZES[size], mean_image=torch.full((784,), 0.3))


def gradients_agree_with_float64():
    """With the same noise; in fp32, and in TF32 as training has it."""
    for size in SIZES:
        model, k = hierarchical(size), 50
        x = (torch.rand(100, 784) < 0.3).double()
        noise = [torch.randn(k, 100, units, dtype=torch.float64) for units in SIZES[size][0]]
        found = {}
        for kind, device, dtype, tf32 in [
            ("cpu float64", "cpu", torch.float64, False),
            ("fp32", "cuda", torch.float32, False),
            ("TF32", "cuda", torch.float32, True),
        ]:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            m = copy.deepcopy(model).to(device, dtype)
            given = [n.to(device, dtype) for n in noise]
            log_w = m.log_weights(x.to(device, dtype), k, lambda q, level, shape, given=given: given[level])
            bound = IWAE().target(log_w).mean()
            bound.backward()
            gradient = torch.cat([p.grad.flatten() for p in m.parameters()]).cpu().double()
            found[kind] = bound.item(), gradient
        torch.backends.cuda.matmul.allow_tf32 = False
        reference = found["cpu float64"]
        for kind, tolerance in (("fp32", 3e-5), ("TF32", 1e-2)):
            off = ((found[kind][1] - reference[1]).norm() / reference[1].norm()).item()
            nats = abs(found[kind][0] - reference[0])
            report(
                f"{size} layer, {kind}",
                off < tolerance and nats < 10 * tolerance,
                f"gradient {off:.1e}, bound {nats:.1e} nats",
            )


def objectives():
    for path in sorted(CONF.glob("*.yaml")):
        node = OmegaConf.to_container(OmegaConf.load(path))
        yield path.stem, lambda node=node: Node.of(node, "objective", Objective).build()


def prepared(model, objective, factory, k, batch, compile="false", graphs=True, kept=None):
    """kept: the states of a training and its optimizer, to resume from."""
    torch.cuda.manual_seed(1)
    training = Training(model, objective, factory, Constant(1, batch, 1e-3), k, compile=compile).cuda()
    training.on_train_epoch_start()
    optimizer = factory.make(training.parameters(), 1e-3)
    if kept:
        training.load_state_dict(kept[0])
        optimizer.load_state_dict(kept[1])
    return training, optimizer, Steps(Step(training.add_gradients, optimizer), compile, graphs=graphs)


def run(execute, groups, count):
    for group in itertools.islice(groups, count):
        execute(group, [RATE] * len(group), 1)


def state(training):
    torch.cuda.synchronize()
    return torch.cat([p.detach().flatten() for p in training.parameters()])


def every_objective_trains():
    images = torch.randint(0, 256, (1000, 784), dtype=torch.uint8, device="cuda")
    for name, make in objectives():
        for model in ("hierarchical", "sigmoid belief"):
            ends = {}
            for graphs in (False, True):
                torch.manual_seed(0)
                architecture = HierarchicalModel if model == "hierarchical" else SigmoidBeliefNetwork
                try:
                    m = architecture([20, 10], [[50], [50]], mean_image=torch.full((784,), 0.3))
                    training, _, execute = prepared(m, made := make(), Adam(), 8, 20, graphs=graphs and made.compilable)
                    run(execute, iter(Batches(images, 20)), 1)
                    ends[graphs] = state(training)
                    bound = training.train_bound() / 1000
                except Exception as error:
                    ends[graphs] = f"{type(error).__name__}: {str(error)[:150]}"
                    if "latents" in str(error):
                        break
            if isinstance(ends.get(False), str) and "latents" in ends[False]:
                continue
            if any(isinstance(end, str) for end in ends.values()):
                report(f"{name}, {model}", False, str({k: v for k, v in ends.items() if isinstance(v, str)}))
                continue
            off = (ends[True] - ends[False]).abs().max().item()
            report(
                f"{name}, {model}: 50 steps, graphs as calls",
                off < 1e-4 and bool(torch.isfinite(ends[True]).all()),
                f"largest difference {off:.1e}; bound {bound:.1f}",
            )


def compiled_steps_are_those_of_calls():
    """In graphs; DReG changes gradients by a hook, dreg_resampled one inside the compiled code."""
    images = torch.randint(0, 256, (1000, 784), dtype=torch.uint8, device="cuda")
    for name, make in objectives():
        if name in ("iwae", "dreg", "dreg_resampled"):
            ends = []
            for compile, graphs in (("false", False), ("true", True)):
                training, _, execute = prepared(hierarchical("two"), make(), Adam(), 8, 20, compile, graphs)
                run(execute, iter(Batches(images, 20)), 1)
                ends.append(state(training))
            off = (ends[0] - ends[1]).abs().max().item()
            report(f"{name}: 50 compiled steps", off < 1e-3 and execute.choice.compile, f"largest difference {off:.1e}")


def resumed_is_not_interrupted():
    images = torch.randint(0, 256, (8000, 784), dtype=torch.uint8, device="cuda")
    for factory, compile in [
        (Adam(), "false"),
        (Adam(), "true"),
        (Soap(), "false"),
        (Muon(), "false"),
        (AdamAuthors(20), "false"),
    ]:
        training, optimizer, execute = prepared(hierarchical("one"), IWAE(), factory, 5, 20, compile)
        groups = iter(Batches(images, 20))
        run(execute, groups, 1)
        kept = copy.deepcopy([training.state_dict(), optimizer.state_dict()])
        rng = torch.cuda.get_rng_state()
        group = next(groups)
        torch.cuda.set_rng_state(rng)
        execute(group, [RATE] * len(group), 1)
        whole = state(training)
        training, _, execute = prepared(hierarchical("one"), IWAE(), factory, 5, 20, compile, kept=kept)
        torch.cuda.set_rng_state(rng)
        execute(group, [RATE] * len(group), 1)
        off = (state(training) - whole).abs().max().item()
        report(
            f"{type(factory).__name__}, compile={compile}: 200 steps after resuming",
            off == 0,
            f"largest difference {off:.1e}",
        )


def a_stack_takes_the_steps_of_each():
    """A stack of one has the noise of the model alone; of a stack of three, graphs are to be as calls.

    Those of IWAE and DReG also in compiled code.
    """
    images = torch.randint(0, 256, (1000, 784), dtype=torch.uint8, device="cuda")
    for name, make in objectives():
        if not make().compilable:
            continue
        architecture = SigmoidBeliefNetwork if name == "disarm" else HierarchicalModel
        ends = []
        cases = [(1, False, "false", False), (1, True, "false", False), (3, True, "false", False)]
        cases += [(3, True, mode, True) for mode in ("false", "true")[: 1 + (name in ("iwae", "dreg"))]]
        for stack, stacked, mode, graphs in cases:
            each = []
            for seed in range(stack):
                torch.manual_seed(seed)
                model = architecture([20, 10], [[50], [50]], mean_image=torch.full((784,), 0.3))
                each.append(Gradients(model.cuda(), make().cuda(), 8))
                each[-1].start_sums(images.device)
            parameters = [p for member in each for part in (member.model, member.objective) for p in part.parameters()]
            torch.cuda.manual_seed(1)
            gradients = StackedGradients(each) if stacked else each[0]
            execute = Steps(Step(gradients, Adam().make(parameters, 1e-3)), mode, graphs=graphs)
            batches = list(itertools.chain.from_iterable(Batches(images, 20, stack=stack)))
            if stacked and stack == 1:
                batches = [x.unsqueeze(0) for x in batches]
            execute(batches, [RATE] * len(batches), len(batches))
            compiled = execute.choice.compile
            ends.append(torch.cat([p.detach().flatten() for p in parameters]))
        off = [(ends[i] - end).abs().max().item() for i, end in zip((0, 2, 2), (ends[1], *ends[3:]), strict=False)]
        said = ", ".join(f"{what} {x:.1e}" for what, x in zip(("alone", "graphs", "compiled"), off, strict=False))
        report(f"{name}: 50 steps of a stack", max(off) < 1e-3 and compiled == (mode == "true"), said)


def likelihood_agrees():
    """Of the same model on a CPU, whose noise is other: within the noise of the estimate."""
    for size in SIZES:
        model = hierarchical(size)
        x = (torch.rand(50, 784) < 0.3).to(torch.uint8)
        cpu = likelihood(model.double(), x, 1000)
        gpu = likelihood(model.float().cuda(), x.cuda(), 1000)
        difference = gpu.bound.cpu() - cpu.bound
        z = (difference.mean() / (difference.std() / 50**0.5)).item()
        report(f"{size} layer: L_1000", abs(z) < 4, f"differs by {difference.mean():.4f} nats, z = {z:.1f}")


if __name__ == "__main__":
    for check in (
        gradients_agree_with_float64,
        likelihood_agrees,
        every_objective_trains,
        compiled_steps_are_those_of_calls,
        resumed_is_not_interrupted,
        a_stack_takes_the_steps_of_each,
    ):
        print(check.__name__.replace("_", " "), flush=True)
        check()
    print(f"{len(failures)} failures: {failures}")
    sys.exit(bool(failures))
