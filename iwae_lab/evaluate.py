"""Measure a finished run again: python -m iwae_lab.evaluate RUN_DIR [evaluation.k=…] [evaluation.images=…]

RUN_DIR may also be a FILE.safetensors that python -m iwae_lab.export wrote, with its FILE.json.

data_dir=DIR, accelerator=…, threads=N and compile=… are those of train.py
precision=bf16    the test NLL with matrix products in bf16, if that moves it by at most 0.01 nats
diagnostics=true  also effective samples, KL of layers and units, signal-to-noise ratio of the gradients
ais=N             also log p(x) from both sides, by annealed importance sampling: N test and N simulated images
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from iwae_lab.console.errors import UserError, one_line_errors, require
from iwae_lab.console.tables import print_rows
from iwae_lab.data.protocol import Data
from iwae_lab.evaluation.ais import Annealing, ais, bidirectional
from iwae_lab.evaluation.diagnostics import KL_THRESHOLD, diagnose, gradient_snr
from iwae_lab.evaluation.likelihood import likelihood
from iwae_lab.models.base import LatentVariableModel
from iwae_lab.runs.config import Config, check
from iwae_lab.runs.record import Record, read_record
from iwae_lab.runs.run import Parts, log_to_console, measure_model, prepare_cpu, read_checkpoint
from iwae_lab.runs.summary import print_record
from iwae_lab.runs.weights import load_named, read_tensors
from iwae_lab.training.checkpoints import part_of
from iwae_lab.training.module import SNR_IMAGES

__all__ = ["TrainedRun"]

OVERRIDABLE = ("evaluation.k", "evaluation.images", "diagnostics", "data_dir", "accelerator", "threads", "compile")


@dataclass(frozen=True)
class TrainedRun:
    """A run read back from its folder."""

    record: Record
    parts: Parts
    data: Data
    model: LatentVariableModel

    @classmethod
    def read(cls, folder: Path, overrides: list[str]) -> Self:
        """The run in `folder`, or the one that was exported to this .safetensors file, under `overrides` ("key=value").

        An exported run has no state of its objective. Raises `UserError` for a folder that holds no trained run, or a
        key that training has settled.
        """
        exported = folder.suffix == ".safetensors"
        record = read_record(folder.with_suffix(".json") if exported else folder)
        state = {} if exported else read_checkpoint(folder)["state_dict"]
        cfg = OmegaConf.merge(OmegaConf.structured(Config), record.config)
        assert isinstance(cfg, DictConfig)
        cfg.diagnostics, cfg.init_from = False, None  # those were for training
        for override in overrides:
            if override.partition("=")[0] not in OVERRIDABLE:
                expected = ", ".join(f"{key}=…" for key in (*OVERRIDABLE, "precision", "ais"))
                raise UserError(f"{override}: expected one of {expected}")
            try:
                cfg.merge_with_dotlist([override])
            except OmegaConfBaseException as error:
                raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
        parts = Parts.of(check(cfg))
        prepare_cpu(parts.config)
        data = parts.data
        model = parts.model()
        if exported:
            load_named(model, read_tensors(folder))
        else:
            model.load_state_dict(part_of(state, "model."))
            parts.objective.load_state_dict(part_of(state, "objective."))
        parts.objective.begin_epoch(parts.schedule.epochs - 1)  # as the last epoch had it
        record.protocol = data.protocol
        parts.objective.to(parts.device())
        return cls(record, parts, data, model.to(parts.device()).eval())

    def measure(self, precision: str = "32") -> None:
        """Put metrics measured anew into the record; the folder stays as it is.

        With no override they are those recorded, to the last digit on the same machine if the NLL is compiled again
        or again is not. A test NLL in bf16 is under no protocol of a record.
        """
        found = measure_model(self.model, self.data, self.parts.config, precision)
        self.record.metrics |= found.metrics()
        if found.precision != "32":
            self.record.protocol += f", in {found.precision}"

    def diagnose(self) -> dict[str, str]:
        """Effective samples and KL on the test draw; signal-to-noise ratio on a batch of the validation draw."""
        config, device = self.parts.config, self.parts.device()
        k = config.evaluation.k
        found = diagnose(self.model, self.data.test.to(device), k, batch=max(1, 4000 // k))
        effective = found.ess
        rows = {f"effective samples of {k}": f"{effective.mean():.1f} ({effective.min():.1f} to {effective.max():.1f})"}
        for level, (kl, used) in enumerate(zip(found.kl, found.informative, strict=True), 1):
            units = f"{used} of {len(kl)} units above {KL_THRESHOLD}, largest {kl.max().item():.2f}"
            rows[f"KL of layer {level}"] = f"{kl.sum():.2f} nats; {units}"
        batch = self.data.val[:SNR_IMAGES].to(device).float()
        snr = gradient_snr(self.parts.objective, self.model, batch, config.k)
        name = f"gradient SNR, {self.record.objective} k={config.k}"
        return rows | {f"{name}, θ": f"{snr.generative.overall:.3g}", f"{name}, φ": f"{snr.inference.overall:.3g}"}

    def anneal(self, images: int) -> dict[str, str]:
        """Annealed bounds on log p(x), and L̂_k of the same images."""
        k, how = self.parts.config.evaluation.k, Annealing(temperatures=100)
        test = self.data.test[:images].to(self.parts.device()).float()
        annealed, simulated = ais(self.model, test, how), bidirectional(self.model, images, how)
        return {
            f"{len(test)} test images, L_{k}": _nats(likelihood(self.model, test, k).bound),
            f"{len(test)} test images, AIS": _nats(annealed.bound),
            f"{images} simulated images, L_{k}": _nats(likelihood(self.model, simulated.images, k).bound),
            f"{images} simulated images, AIS": _nats(simulated.lower.bound),
            f"{images} simulated images, reverse AIS": _nats(simulated.upper.bound),
            "gap between these two": _nats(simulated.gap),
            "effective chains": f"{annealed.ess.mean():.1f} of {how.chains}",
            "accepted moves": f"{annealed.acceptance.mean():.0%}",
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
    recorded = read_record(folder.with_suffix(".json") if folder.suffix == ".safetensors" else folder)
    run = TrainedRun.read(folder, overrides)
    run.measure(precision)
    found = run.record
    print_record(found, folder)
    if found.protocol == recorded.protocol and "test/nll" in recorded.metrics:
        ours, theirs = found.metrics["test/nll"], recorded.metrics["test/nll"]
        print(
            f"test NLL {ours!r}, recorded {theirs!r}: {'equal' if ours == theirs else f'differ by {ours - theirs:g}'}"
        )
    if run.parts.config.diagnostics:
        print_rows("diagnostics", run.diagnose())
    if images:
        print_rows("log p(x), mean over images", run.anneal(images))


if __name__ == "__main__":
    with one_line_errors():
        main()
