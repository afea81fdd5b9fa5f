"""Errors that a user can fix. Imports no library."""

import difflib
import json
from collections.abc import Collection

__all__ = ["Diverged", "UserError", "as_typed", "did_you_mean", "require", "require_one_of"]


class UserError(Exception):
    """Something the user can fix; the message names the key, the value and what was expected."""


class Diverged(UserError):
    """A loss, weight or result is not a number; the same command would end the same way."""


def require(key: str, value: object, holds: bool, expected: str) -> None:
    """Raises `UserError` that names the key, its value and what was expected, unless `holds`."""
    if not holds:
        raise UserError(f"{key}={as_typed(value)}: expected {expected}")


def as_typed(value: object) -> object:
    """null, true and false as a user types them; other values as they are."""
    return json.dumps(value) if value is None or isinstance(value, bool) else value


def require_one_of(key: str, value: object, options: Collection[str]) -> None:
    """Raises `UserError` that names the key, its value and the options, unless the value is one of them."""
    listed = ", ".join(options)
    require(key, value, value in options, f"one of {listed}" if len(options) > 1 else listed)


def did_you_mean(word: str, known: list[str]) -> str:
    """' (did you mean X?)' for the known word nearest to `word`, else ''."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""
