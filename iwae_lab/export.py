"""Publish a run's weights: python -m iwae_lab.export RUN_DIR --to FILE.safetensors

FILE.json beside it is the run's record: architecture, protocol and what was measured. Both together are what
python -m iwae_lab.evaluate FILE.safetensors measures again, to the last digit.
"""

import argparse
import dataclasses
from pathlib import Path

from iwae_lab.console.errors import require
from iwae_lab.console.explain import one_line_errors
from iwae_lab.runs.folder import read_checkpoint
from iwae_lab.runs.record import read_record
from iwae_lab.runs.weights import write_tensors
from iwae_lab.training.checkpoints import part_of

__all__ = ["export"]


def export(folder: Path, to: Path) -> None:
    """Write the last checkpoint's model in the run `folder` to a .safetensors file, and its record beside it.

    Raises `UserError` for a folder that holds no trained run, or another kind of file.
    """
    require("RUN_DIR", folder, (folder / "result.json").is_file(), "the folder of a run, with its result.json")
    record = read_record(folder)
    require("RUN_DIR", folder, record.status == "finished", f"a finished run, but its record says {record.status}")
    taken = to.with_suffix(".json").exists() and not to.exists()
    require("--to", to, not taken, f"another name, since {to.with_suffix('.json')} is no record of exported weights")
    write_tensors(to, part_of(read_checkpoint(folder)["state_dict"], "model."), dataclasses.asdict(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.safetensors")
    arguments = parser.parse_args()
    export(arguments.run, arguments.to)
    print(arguments.to)


if __name__ == "__main__":
    with one_line_errors():
        main()
