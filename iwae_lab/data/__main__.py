"""Datasets on this machine: `python -m iwae_lab.data` lists them, `… fetch mnist omniglot` downloads them."""

import argparse
import logging
import pkgutil
import sys
from pathlib import Path

from omegaconf import OmegaConf

from iwae_lab.console.errors import UserError, did_you_mean
from iwae_lab.console.explain import one_line_errors
from iwae_lab.data.base import Dataset, resolve_data_dir
from iwae_lab.runs.config import CONF


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m iwae_lab.data", description="List datasets, or fetch them.")
    parser.add_argument("--data-dir", metavar="DIR", help="where datasets are (default: $IWAE_LAB_DATA, else a cache)")
    commands = parser.add_subparsers(dest="command", metavar="[fetch NAME …]")
    fetching = commands.add_parser("fetch", help="download datasets ahead of time")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with one_line_errors():
        arguments = parser.parse_args()
        data_dir = resolve_data_dir(arguments.data_dir)
        if arguments.command == "fetch":
            fetch(arguments.names, data_dir)
        else:
            show(data_dir)


def fetch(names: list[str], data_dir: Path) -> None:
    """Download the missing files of the named datasets, and check all of them."""
    known = {name: dataset for name, dataset in datasets().items() if dataset.files}
    for name in names:
        if name not in known:
            expected = f"expected one of {', '.join(known)}"
            raise UserError(f"fetch {name}: no such dataset{did_you_mean(name, list(known))}; {expected}")
    for name in names:
        for file in known[name].files:
            print(f"{name}: {file.read(data_dir / name).path}")


def show(data_dir: Path) -> None:
    """Print every dataset's files: whether they are there and intact, and where."""
    print(f"data directory: {data_dir}{'' if data_dir.is_dir() else ' (not there yet)'}")
    missing = []
    for name, dataset in datasets().items():
        if not dataset.files:
            print(f"{name:<14} your own: dataset={name} dataset.path=FILE")
        for file in dataset.files:
            local, problems = file.search(data_dir / name)
            if local:
                status = f"{'present' if local.published else 'present, not the published file'}: {local.path}"
            else:
                status = f"unusable: {'; '.join(problems)}" if problems else "missing"
                missing.append(name)
            print(f"{name:<14} {file.name:<28} {status}")
    if missing:
        print(f"fetch with: python -m iwae_lab.data --data-dir {data_dir} fetch {' '.join(dict.fromkeys(missing))}")


def datasets() -> dict[str, type[Dataset]]:
    """The class of every dataset in conf/dataset, by name."""
    paths = sorted((CONF / "dataset").glob("*.yaml"))
    return {path.stem: pkgutil.resolve_name(OmegaConf.load(path)._target_) for path in paths}


if __name__ == "__main__":
    main()
