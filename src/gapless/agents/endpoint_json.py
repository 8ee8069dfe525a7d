"""JSON as services write it: where one divides an answer inside a character, each event holds half a surrogate pair."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from gapless.jsontext import decode_json, is_deep, without_surrogates

__all__ = ["Halves", "decode_halved"]

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


class Halves:
    """Joins a surrogate pair that was divided between two pieces of one text; half of one alone becomes U+FFFD."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """Return what of the text can be shown now."""
        if not self._half and (not piece or piece.isascii()):
            return piece
        text, self._half = self._half + piece, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        joined: str = without_surrogates(text)
        return joined

    def end(self) -> str:
        """Return what is left: the other half did not come."""
        half, self._half = self._half, ""
        return "\ufffd" if half else ""
