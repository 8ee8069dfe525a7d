"""What a caller in Python has given: told at once, by the parameter's name, where it is of another kind."""

from __future__ import annotations

import enum
from types import UnionType
from typing import Any, TypeVar, get_args

import msgspec

from gapless.errors import InputInvalid, UsageError

__all__ = ["article", "as_json", "check_given", "check_number", "check_numbers", "one_of", "shown", "structs_given"]

SHOWN_CHARS_MAX = 60
_PLAIN = (str, bytes, int, float, type(None))
"""What is shown as it is written; of anything else its type is."""
_EnumT = TypeVar("_EnumT", bound=enum.Enum)


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


def one_of(name: str, value: object, choices: type[_EnumT]) -> _EnumT | None:
    """Return the member of `choices` that is given for `name`, also where it is given by its value; None for None.
    Raises `InputInvalid` for what is none."""
    try:
        return None if value is None else choices(value)
    except ValueError:
        known = ", ".join(str(one.value) for one in choices)
        raise InputInvalid(f"{name}: one of {known}, not {shown(value)}") from None


def structs_given(name: str, given: object, kind: Any) -> list[Any] | None:
    """Return the list given for `name` as structs of this `kind`, or of several in a union: what is one already as it
    is, and a dict as it would come over HTTP. None for None. Raises `InputInvalid`, with the place."""
    if given is None:
        return None
    if not isinstance(given, list | tuple):
        raise InputInvalid(f"{name}: a list, not {shown(given)}")
    if all(isinstance(one, kind) for one in given):
        return list(given)
    try:
        return msgspec.convert(given, list[kind])
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `$")
        raise InputInvalid(f"{name}{place.rstrip('`')}: {said}") from None


def as_json(name: str, value: Any) -> Any:
    """Return the value given for `name` as JSON gives it back: as it is whichever store keeps it, and wherever it is
    used. Raises `InputInvalid` for what JSON cannot carry."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError) as error:
        raise InputInvalid(f"{name} cannot be written as JSON: {error}") from None


def shown(value: object) -> str:
    """Return what a message says was given: a short plain value as it is written, of others the type."""
    if not isinstance(value, _PLAIN):
        return article(type(value).__name__)
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


def article(noun: str) -> str:
    """Return `noun` with "a" or "an" before it."""
    return f"{'an' if noun[:1].lower() in ('a', 'e', 'i', 'o') else 'a'} {noun}"
