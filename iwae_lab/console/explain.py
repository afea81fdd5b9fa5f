"""How commands show errors: one line, exit code 1."""

import argparse
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from iwae_lab.console.errors import UserError, did_you_mean
from iwae_lab.console.output import keep_output_from_failing

__all__ = ["expected", "explain", "one_line_errors"]

EXPECTED = {  # by what OmegaConf says
    "converted to Integer": "an integer",
    "converted to Float": "a number",
    "not a valid bool": "true or false",
    "to string": "text",
    "not Optional": "a value",
    "with ListConfig": "a list",
    "not a subclass of": "a value for each of its keys, as in KEY.NAME=VALUE",
}
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"  # as the user set it


def explain(error: BaseException) -> str:
    """One line for an error: the messages of a configuration error and its cause, else type and text."""
    if isinstance(error, UserError):
        return _one_line(str(error))
    module = type(error).__module__
    if module.startswith(("hydra.", "omegaconf.")):
        return _explain_configuration(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return _one_line(f"{error.filename}: {error.strerror}")
    if "Config group override must be a string" in str(error):  # Hydra doesn't say which
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        return f"{frame.f_locals['override'].input_line}: expected the name of one of the group's options"
    if module.startswith("yaml."):
        return _one_line(str(error))
    if found := re.search(r"tried to allocate \d+ bytes|CUDA out of memory", str(error), re.IGNORECASE):
        return f"out of memory ({found[0]}): expected a smaller k, schedule.batch_size or model"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ValueError) and frames and "/hydra/_internal/" in frames[-1].filename.replace(os.sep, "/"):
        return _one_line(str(error))  # about Hydra's own options
    return _one_line(f"{type(error).__name__}: {error}{_where(frames)}")


def _where(frames: traceback.StackSummary) -> str:
    """The innermost line of code outside installed packages."""
    installed = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    own = [frame for frame in frames if not frame.filename.startswith(installed)]
    return f" ({own[-1].filename}:{own[-1].lineno}; HYDRA_FULL_ERROR=1 shows the traceback)" if own else ""


def _explain_configuration(error: BaseException) -> str:
    text = f"{error}\n{error.__cause__ or ''}"
    if missing := re.search(r"Could not override '([^']*)'|Key '([^']*)' not in 'Config'", text):
        key = missing[1] or missing[2]
        if key.startswith("init_from."):
            return f"{key}: no such key; expected init_from={{{key.removeprefix('init_from.')}: VALUE}}"
        group, _, name = key.rpartition(".")
        node = getattr(error.__cause__ or error, "parent_node", None)
        siblings = [k for k in node or () if k not in ("name", "_target_", "hydra")]
        known = f"; expected one of {', '.join(siblings)}" if siblings else ""
        hint = _in_another_group(name, node) or did_you_mean(name, [*siblings, "name"])
        if node is not None and "_target_" in node:
            known = known or f"; {group}={node['name']} sets no parameters"
            known += "" if hint else f"; +{key}=VALUE gives its class one that it leaves out"
        return f"{key}: no such key{hint}{known}"
    if missing := re.search(r"Could not find '([\w/]+)/([^']*)'\s*Available options in '[\w/]+':((?:\n\t\w+)*)", text):
        group, name, options = missing[1], missing[2], missing[3].split()
        of_packages, own = "after pip install -e '.[joblib,slurm]' one of theirs", "one of your own with -cd FOLDER"
        more = of_packages if group.startswith("hydra") else own
        known = f"expected one of {', '.join(options)}, or {more}"
        return f"{group}={name}: no such option{did_you_mean(name, options)}; {known}"
    if missing := re.search(r"Missing mandatory value[\s\S]*full_key: (\S+)|missing mandatory value: (\S+)", text):
        key = missing[1] or missing[2]
        return f"{key} is missing: expected {key}=VALUE"
    if missing := re.search(r"Additional config directory '(.*)' not found", text):
        return f"--config-dir {missing[1]}: expected a directory"
    if missing := re.search(r"Could not load '(\w+)/([^']*)'", text):
        return f"{missing[1]}={missing[2]}: no such option"
    if override := getattr(error, "override", None):
        return _one_line(f"{override}: expected KEY=VALUE, with quotes round special characters: 'KEY=\"VALUE\"'")
    if several := re.search(r"Ambiguous value for argument '(.*)'", text):
        return f"{several[1]}: expected one value; a multirun (-m) takes several"
    if wrong := re.search(r"Error merging override (.*)\n(.*)", text):
        return _one_line(f"{wrong[1]}: {expected(wrong[2])}")
    if wrong := re.search(r"(Value '(.*?)' (?:of|is) .*)\n\s*full_key: (\S+)", text):
        return _one_line(f"{wrong[3]}={wrong[2]}: {expected(wrong[1])}")
    return _one_line(re.sub(r"\n\s*(full_key|object_type|reference_type).*", "", text))


def _in_another_group(name: str, node: Any) -> str:
    """' (did you mean GROUP.name?)' if a group of the configuration around `node` has this key, else ''."""
    if node is None:
        return ""
    name = {"lr": "learning_rate"}.get(name, name)
    groups = {key: value for key, value in node._get_root().items_ex(resolve=False) if key != "hydra"}
    having = [group for group, keys in groups.items() if isinstance(keys, Mapping) and name in keys]
    return f" (did you mean {having[0]}.{name}?)" if having else ""


def expected(text: str) -> str:
    """What OmegaConf expected where it says this."""
    for pattern, what in EXPECTED.items():
        if re.search(pattern, text):
            return f"expected {what}"
    return _one_line(text)


def _wrong_arguments(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Replaces argparse's usage message and exit code 2, also in Hydra."""
    if unknown := re.match("unrecognized arguments: (.*)", message):
        without_dashes = re.sub(r"(?<!\S)-+", "", unknown[1])
        meant = f" (did you mean {without_dashes}?)" if "=" in without_dashes else ""
        message = f"{unknown[1]}: no such option{meant}"
    raise UserError(f"{message}; --help shows what is expected")


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error into one line on stderr and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback."""
    keep_output_from_failing()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would otherwise print and swallow
    argparse.ArgumentParser.error = _wrong_arguments  # type: ignore[assignment, method-assign]
    try:
        yield
    except Exception as error:
        if FULL_ERROR:
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
