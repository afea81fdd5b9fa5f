"""The rule for names that become part of folders, tables and W&B runs."""

import re

from iwae_lab.console.errors import UserError

__all__ = ["check_name"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}")  # three of them make a run's name; W&B allows 128


def check_name(key: str, name: object) -> str:
    """Return the name as text; YAML reads a name of digits as an integer. Raises `UserError` for any other value."""
    text = str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""
    if not NAME.fullmatch(text):
        shown = "null" if name is None else name
        raise UserError(
            f"{key}={shown}: expected a name of at most 32 letters a-z, digits and _ . + -, "
            f"the first a letter or a digit"
        )
    return text
