"""Measure a finished run again: python -m iwae_lab.evaluate RUN_DIR [evaluation.k=…] [evaluation.images=…]

RUN_DIR may also be a FILE.safetensors that python -m iwae_lab.export wrote, with its FILE.json.

data_dir=DIR, accelerator=…, threads=N and compile=… are those of train.py
checkpoint=best   the model of the highest validation bound, instead of the last
precision=bf16    the test NLL with matrix products in bf16, if that moves it by at most 0.01 nats
diagnostics=true  also effective samples, KL of layers and units, signal-to-noise ratio of the gradients
evaluation.ais.images=N  also log p(x) by annealed importance sampling, of N test images and, from both sides, of N
                  drawn from the model; evaluation.ais.{chains,temperatures,…} say how, as for train.py
evaluation.gaps.images=N  also the encoder's approximation and amortization gap on N test images

Or measure weights that were trained elsewhere, and record them in runs_dir like a run:
    python -m iwae_lab.evaluate --weights FILE --model one_layer --map MAP.yaml dataset=mnist k=50 [evaluation.…=…]

FILE is a .safetensors, .npz, .pt, .pth, .ckpt or .model of tensors; MAP.yaml, or the name of one in
iwae_lab/runs/maps, says which is which (iwae_lab/runs/weights.py describes it); without --map they have our names.
k says with how many samples they were trained. Recorded weights are only measured again with force=true. logger=… logs
the record to trackers, as train.py would; none by default.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from iwae_lab.console.errors import require
from iwae_lab.console.explain import one_line_errors
from iwae_lab.console.logs import log_to_console
from iwae_lab.console.signals import interrupt_on_signals
from iwae_lab.console.tables import print_rows
from iwae_lab.evaluation.diagnostics import KL_THRESHOLD, SNR_IMAGES, diagnose, gradient_snr
from iwae_lab.evaluation.keys import TEST, TEST_NLL
from iwae_lab.runs.external import measure_external
from iwae_lab.runs.interrupted_evaluation import resumable
from iwae_lab.runs.measure import measure
from iwae_lab.runs.record import Record
from iwae_lab.runs.summary import print_record
from iwae_lab.runs.trained import TrainedRun


def measured_again(run: TrainedRun, folder: Path) -> Record:
    """The record of the run in `folder`, or in a file of weights, with metrics measured anew; it stays as it is.

    Without overrides they equal the recorded ones, to the last digit on the same machine if `compile` chooses the
    same again. A test NLL in bf16 belongs to no protocol.
    """
    config, precision = run.experiment.config, run.experiment.precision
    with resumable(folder, config, precision) as kept:
        measured = measure(run.model, run.data, config, run.experiment.device, precision, kept)
    used = measured.standard.precision
    protocol = run.data.protocol + ("" if used == "32" else f", in {used}")
    of_training = {key: value for key, value in run.record.metrics.items() if not key.startswith(TEST)}
    return dataclasses.replace(run.record, protocol=protocol, metrics=of_training | measured.metrics())


def diagnosed(run: TrainedRun) -> dict[str, str]:
    """Effective samples and KL on the test draw; signal-to-noise ratio on a batch of the validation draw."""
    config, device = run.experiment.config, run.experiment.device
    k = config.evaluation.k
    diagnostics = diagnose(run.model, run.data.test.to(device), k, batch=max(1, 4000 // k))
    effective = diagnostics.ess
    rows = {f"effective samples of {k}": f"{effective.mean():.1f} ({effective.min():.1f} to {effective.max():.1f})"}
    for level, (kl, used) in enumerate(zip(diagnostics.kl, diagnostics.informative, strict=True), 1):
        units = f"{used} of {len(kl)} units above {KL_THRESHOLD}, largest {kl.max().item():.2f}"
        rows[f"KL of layer {level}"] = f"{kl.sum():.2f} nats; {units}"
    batch = run.data.val[:SNR_IMAGES].to(device).float()
    snr = gradient_snr(run.experiment.objective, run.model, batch, config.k)
    name = f"gradient SNR, {run.record.objective} k={config.k}"
    return rows | {f"{name}, θ": f"{snr.generative.overall:.3g}", f"{name}, φ": f"{snr.inference.overall:.3g}"}


def _external() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--model", required=True, metavar="OPTION")
    parser.add_argument("--map", metavar="MAP.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    log_to_console()
    record, folder = measure_external(arguments.weights, arguments.model, arguments.map, arguments.overrides)
    print_record(record, folder)


def main() -> None:
    interrupt_on_signals()
    if any(argument.partition("=")[0] == "--weights" for argument in sys.argv):
        _external()
        return
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 1)
    folder = Path(sys.argv[1])
    expected = "a run's folder or an exported .safetensors; --weights FILE measures others"
    require("RUN_DIR", folder, folder.suffix == ".safetensors" or not folder.is_file(), expected)
    log_to_console()
    torch.set_flush_denormal(True)  # as `prepare_cpu`, and before the mean image starts torch's threads
    run = TrainedRun.read(folder, sys.argv[2:])
    run.experiment.prepare_cpu()
    recorded, again = run.record, measured_again(run, folder)
    print_record(again, folder)
    if again.protocol == recorded.protocol and TEST_NLL in recorded.metrics:
        ours, theirs = again.metrics[TEST_NLL], recorded.metrics[TEST_NLL]
        print(
            f"test NLL {ours!r}, recorded {theirs!r}: {'equal' if ours == theirs else f'differ by {ours - theirs:g}'}"
        )
    if run.experiment.config.diagnostics:
        print_rows("diagnostics", diagnosed(run))


if __name__ == "__main__":
    with one_line_errors():
        main()
