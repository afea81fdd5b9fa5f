"""Measure a finished run again: python -m iwae_lab.evaluate RUN_DIR [evaluation.k=…] [evaluation.images=…]"""

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iwae_lab.config import Config, check
from iwae_lab.errors import UserError, one_line_errors
from iwae_lab.record import Record, read_record
from iwae_lab.report import print_record
from iwae_lab.run import Parts, measure_model, read_checkpoint

__all__ = ["evaluate"]

OVERRIDABLE = ("evaluation.k", "evaluation.images", "data_dir", "accelerator", "threads")


def evaluate(folder: Path, overrides: list[str]) -> Record:
    """The record of the run in `folder`, with metrics measured anew under `overrides` ("key=value").

    With no override the metrics are those recorded, to the last digit on the same machine. Nothing is written.
    Raises `UserError` for a folder that holds no trained run, or a key that training has settled.
    """
    record = read_record(folder)
    checkpoint = read_checkpoint(folder)
    cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(folder / "config.yaml"))
    assert isinstance(cfg, DictConfig)
    for override in overrides:
        if override.partition("=")[0] not in OVERRIDABLE:
            raise UserError(f"{override}: expected one of {', '.join(f'{key}=…' for key in OVERRIDABLE)}")
        try:
            cfg.merge_with_dotlist([override])
        except OmegaConfBaseException as error:
            raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
    parts = Parts.of(check(cfg))
    data = parts.data()
    model = parts.model(data)
    model.load_state_dict(
        {
            key.removeprefix("model."): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith("model.")
        }
    )
    found = measure_model(model.to(parts.device()), data, parts.config.evaluation.k)
    record.protocol = data.protocol
    record.metrics |= found.metrics()
    return record


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 1)
    folder = Path(sys.argv[1])
    recorded, found = read_record(folder), evaluate(folder, sys.argv[2:])
    print_record(found, folder)
    if found.protocol == recorded.protocol and recorded.metrics:
        ours, theirs = found.metrics["test/nll"], recorded.metrics["test/nll"]
        print(
            f"test NLL {ours!r}, recorded {theirs!r}: {'equal' if ours == theirs else f'differ by {ours - theirs:g}'}"
        )


if __name__ == "__main__":
    with one_line_errors():
        main()
