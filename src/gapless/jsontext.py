"""JSON that others wrote, decoded (bodies of requests, and the texts in which models and clients put JSON), and ours as
line readers want it."""

from __future__ import annotations

import functools
import json
import re
from itertools import accumulate
from typing import Any, TypeVar, overload

import msgspec

__all__ = ["DEPTH_MAX", "decode_json", "is_deep", "with_plain_lines", "without_surrogates"]

DEPTH_MAX = 100
"""Arrays and objects within each other. What is decoded here, or recorded, is read, copied and encoded again by code
that recurses: a value that is only just decodable would fail there, each time that it is asked for."""

_T = TypeVar("_T")
_decoder = functools.cache(msgspec.json.Decoder)  # to make one for `Event` takes a hundred times what decoding does
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # an unclosed one too: each byte is looked at once
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[{]}")
_BREAKS = {"\u0085".encode(): b"\\u0085", "\u2028".encode(): b"\\u2028", "\u2029".encode(): b"\\u2029"}
"""The characters that Python breaks a line at and JSON does not escape, and how JSON may write them."""


@overload
def decode_json(text: str | bytes | bytearray) -> Any: ...


@overload
def decode_json(text: str | bytes | bytearray, type: type[_T]) -> _T: ...


def decode_json(text: str | bytes | bytearray, type: Any = Any) -> Any:
    """Return the value, as `type`; half a character in it, as of a text that a page has cut, is U+FFFD. Raises
    `msgspec.DecodeError`, also for more than `DEPTH_MAX` levels.
    """
    data = text.encode(errors="replace") if isinstance(text, str) else text
    if is_deep(data):
        raise msgspec.DecodeError(f"more than {DEPTH_MAX} arrays and objects within each other")
    try:
        return _decoder(type).decode(data)
    except (UnicodeDecodeError, RecursionError) as error:  # the latter: arrays that nothing closes
        raise msgspec.DecodeError(str(error)) from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if not _HALF.search(data):
            raise
    try:
        mended = msgspec.json.encode(without_surrogates(json.loads(data)))
    except (ValueError, OverflowError) as error:
        raise msgspec.DecodeError(str(error)) from None
    return _decoder(type).decode(mended)


def is_deep(data: bytes | bytearray) -> bool:
    """True if the JSON has more than `DEPTH_MAX` arrays and objects within each other; those in texts do not count."""
    if data.count(b"[") + data.count(b"{") <= DEPTH_MAX:
        return False
    steps = memoryview(_STRING.sub(b"", data).translate(_STEPS, _OTHERS)).cast("b")  # 1 in, -1 out
    return max(accumulate(steps), default=0) > DEPTH_MAX


def with_plain_lines(data: bytes) -> bytes:
    """Return the same JSON without the characters that `str.splitlines` takes for the end of a line: the line readers
    of `httpx` and `requests` divide a stream by it.
    """
    if data.isascii():
        return data
    text = data.decode("utf-8", "replace")  # a character is found in text at a fraction of what its bytes take
    if "\u0085" in text or "\u2028" in text or "\u2029" in text:
        for character, escaped in _BREAKS.items():
            data = data.replace(character, escaped)
    return data


def without_surrogates(value: Any) -> Any:
    """Return a JSON value as it can be encoded: halves of a character that stand side by side are joined, one alone
    becomes U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    return value
