"""What a caller in Python has given: told at once, by the parameter's name, where it is of another kind."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args

import msgspec

from gapless.errors import UsageError

__all__ = ["article", "check_given", "check_number", "check_numbers", "shown"]

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


def check_number(
    name: str, value: float | None, least: float, most: float, error: type[Exception] = UsageError
) -> None:
    """Raise `error` where a number is not from `least` to `most`, as nan is not. None is no number."""
    if value is not None and not least <= value <= most:
        raise error(f"{name}: a number from {least:g} to {most:g}, not {shown(value)}")


def check_numbers(given: msgspec.Struct) -> None:
    """Raise `ValueError` where a field of a struct of bounds is none: those in seconds (`…_s`) are numbers above 0, the
    others whole ones from 1 on, or None where that is what they are by default."""
    for field in msgspec.structs.fields(given):
        value: Any = getattr(given, field.name)
        if value is None and field.default is None:
            continue
        seconds = field.name.endswith("_s")
        wanted = "a number of seconds above 0" if seconds else "a whole number from 1 on"
        check_given(field.name, value, int | float if seconds else int, wanted, ValueError)
        if not (value > 0 and value < float("inf")):
            raise ValueError(f"{field.name}: {wanted}, not {shown(value)}")


def shown(value: object) -> str:
    """Return what a message says was given: a short plain value as it is written, of others the type."""
    if not isinstance(value, _PLAIN):
        return article(type(value).__name__)
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


def article(noun: str) -> str:
    """Return `noun` with "a" or "an" before it."""
    return f"{'an' if noun[:1].lower() in ('a', 'e', 'i', 'o') else 'a'} {noun}"
