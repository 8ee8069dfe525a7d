"""JSON as services write it, also where one divides an answer inside a character: each event then holds half of it."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from gapless.jsontext import decode_json, is_deep

__all__ = ["decode_halved"]

_T = TypeVar("_T")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def decode_halved(data: str | bytes, type: type[_T]) -> _T:
    """Return the value, as `type`; its texts may hold halves of surrogate pairs, for `Halves` to join.

    Raises `msgspec.DecodeError`."""
    text = data if isinstance(data, str) else data.decode("utf-8-sig", "replace")
    if not _SURROGATE.search(text) or is_deep(text.encode(errors="replace")):
        return decode_json(text, type)
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None
    return msgspec.convert(value, type)
