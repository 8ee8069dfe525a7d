"""What a caller in Python has given: told at once, by the parameter's name, where it is of another kind."""

from __future__ import annotations

from types import UnionType
from typing import get_args

from gapless.errors import UsageError

__all__ = ["article", "check_given", "shown"]

SHOWN_CHARS_MAX = 60
_PLAIN = (str, bytes, int, float, type(None))
"""What is shown as it is written; of anything else its type is."""


def check_given(
    name: str, value: object, kind: type | UnionType, wanted: str, error: type[Exception] = UsageError
) -> None:
    """Raise `error` (`UsageError`) where `value`, given for the parameter `name`, is not of this `kind`: `wanted` says
    in words what that is. A bool is no number.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in (get_args(kind) or (kind,))):
        raise error(f"{name}: {wanted}, not {shown(value)}")


def shown(value: object) -> str:
    """Return what a message says was given: a short plain value as it is written, of others the type."""
    if not isinstance(value, _PLAIN):
        return article(type(value).__name__)
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


def article(noun: str) -> str:
    """Return `noun` with "a" or "an" before it."""
    return f"{'an' if noun[:1].lower() in ('a', 'e', 'i', 'o') else 'a'} {noun}"
