"""Measure a finished run again: python -m iwae_lab.evaluate RUN_DIR [evaluation.k=…] [evaluation.images=…]

RUN_DIR may also be a FILE.safetensors that python -m iwae_lab.export wrote, with its FILE.json.

data_dir=DIR, accelerator=…, threads=N and compile=… are those of train.py
precision=bf16    the test NLL with matrix products in bf16, if that moves it by at most 0.01 nats
diagnostics=true  also effective samples, KL of layers and units, signal-to-noise ratio of the gradients
ais=N             also log p(x) from both sides, by annealed importance sampling: N test and N simulated images
"""

import dataclasses
import logging
import sys
from pathlib import Path

from torch import Tensor

from iwae_lab.console.errors import one_line_errors, require
from iwae_lab.console.logs import log_to_console
from iwae_lab.console.progress import shown
from iwae_lab.console.tables import print_rows
from iwae_lab.evaluation.ais import Annealing, ais, bidirectional, estimated_seconds
from iwae_lab.evaluation.diagnostics import KL_THRESHOLD, diagnose, gradient_snr
from iwae_lab.evaluation.keys import TEST_NLL
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.evaluation.measure import measure
from iwae_lab.runs.record import Record
from iwae_lab.runs.summary import print_record
from iwae_lab.runs.trained import TrainedRun
from iwae_lab.training.module import SNR_IMAGES

log = logging.getLogger("iwae_lab")


def measured(run: TrainedRun, precision: str) -> Record:
    """The record of a run with metrics measured anew; the folder stays as it is.

    With no override they are those recorded, to the last digit on the same machine if the NLL is compiled again
    or again is not. A test NLL in bf16 is under no protocol of a record.
    """
    config, device = run.experiment.config, run.experiment.device
    test, val, train = (part.to(device) for part in (run.data.test, run.data.val, run.data.train_draw()))
    with shown("evaluation") as progress:
        found = measure(run.model, test, val, train, config.evaluation.k, config.compile, precision, progress)
    protocol = run.data.protocol + ("" if found.precision == "32" else f", in {found.precision}")
    return dataclasses.replace(run.record, protocol=protocol, metrics=run.record.metrics | found.metrics())


def diagnosed(run: TrainedRun) -> dict[str, str]:
    """Effective samples and KL on the test draw; signal-to-noise ratio on a batch of the validation draw."""
    config, device = run.experiment.config, run.experiment.device
    k = config.evaluation.k
    found = diagnose(run.model, run.data.test.to(device), k, batch=max(1, 4000 // k))
    effective = found.ess
    rows = {f"effective samples of {k}": f"{effective.mean():.1f} ({effective.min():.1f} to {effective.max():.1f})"}
    for level, (kl, used) in enumerate(zip(found.kl, found.informative, strict=True), 1):
        units = f"{used} of {len(kl)} units above {KL_THRESHOLD}, largest {kl.max().item():.2f}"
        rows[f"KL of layer {level}"] = f"{kl.sum():.2f} nats; {units}"
    batch = run.data.val[:SNR_IMAGES].to(device).float()
    snr = gradient_snr(run.experiment.objective, run.model, batch, config.k)
    name = f"gradient SNR, {run.record.objective} k={config.k}"
    return rows | {f"{name}, θ": f"{snr.generative.overall:.3g}", f"{name}, φ": f"{snr.inference.overall:.3g}"}


def annealed(run: TrainedRun, images: int) -> dict[str, str]:
    """Annealed bounds on log p(x), and L̂_k of the same images."""
    k, how = run.experiment.config.evaluation.k, Annealing(temperatures=100)
    test = run.data.test[:images].to(run.experiment.device).float()
    share = len(test) / (len(test) + 2 * images)  # of the work, before the simulated images
    log.info("annealing: about %.0f s", estimated_seconds(run.model, test, how) / share)
    with shown("annealing") as progress:
        found = ais(run.model, test, how, progress=lambda done: progress(share * done))
        simulated = bidirectional(run.model, images, how, progress=lambda done: progress(share + (1 - share) * done))
    return {
        f"{len(test)} test images, L_{k}": _nats(likelihood(run.model, test, k).bound),
        f"{len(test)} test images, AIS": _nats(found.bound),
        f"{images} simulated images, L_{k}": _nats(likelihood(run.model, simulated.images, k).bound),
        f"{images} simulated images, AIS": _nats(simulated.lower.bound),
        f"{images} simulated images, reverse AIS": _nats(simulated.upper.bound),
        "gap between these two": _nats(simulated.gap),
        "effective chains": f"{found.ess.mean():.1f} of {how.chains}",
        "accepted moves": f"{found.acceptance.mean():.0%}",
    }


def _nats(values: Tensor) -> str:
    return f"{values.mean():.2f} ± {values.std() / len(values) ** 0.5:.2f} nats"


def _own_arguments(arguments: list[str]) -> tuple[int, str, list[str]]:
    """The N of ais=N (0 where there is none), the P of precision=P, and the arguments that are overrides."""
    own: dict[str, str] = {}
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("ais", "precision"):
            own[key] = value
        else:
            overrides.append(argument)
    if (ais := own.get("ais")) is not None:
        require("ais", ais, ais.isdecimal() and int(ais) >= 2, "a number of images, at least 2")
    precision = own.get("precision", "32")
    require("precision", precision, precision in ("32", "bf16"), "one of 32, bf16")
    return int(ais or 0), precision, overrides


def main() -> None:
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 1)
    folder = Path(sys.argv[1])
    images, precision, overrides = _own_arguments(sys.argv[2:])
    log_to_console()
    run = TrainedRun.read(folder, overrides)
    run.experiment.prepare_cpu()
    recorded, found = run.record, measured(run, precision)
    print_record(found, folder)
    if found.protocol == recorded.protocol and TEST_NLL in recorded.metrics:
        ours, theirs = found.metrics[TEST_NLL], recorded.metrics[TEST_NLL]
        print(
            f"test NLL {ours!r}, recorded {theirs!r}: {'equal' if ours == theirs else f'differ by {ours - theirs:g}'}"
        )
    if run.experiment.config.diagnostics:
        print_rows("diagnostics", diagnosed(run))
    if images:
        print_rows("log p(x), mean over images", annealed(run, images))


if __name__ == "__main__":
    with one_line_errors():
        main()
