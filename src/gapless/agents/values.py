"""What an agent's tools return, and what its states, arguments and own events hold, as JSON can say it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from gapless.jsontext import DEPTH_MAX, is_deep, without_surrogates

__all__ = ["dumped", "json_of", "plain"]

LEVELS_MAX = DEPTH_MAX - 20
"""Arrays and objects within each other that are told of a value; those that are deeper are told as text."""


def json_of(value: Any) -> str:
    """Encode any value as JSON text."""
    try:
        text: str = without_surrogates(json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")))
        if not is_deep(text.encode()):
            return text
    except RecursionError:
        pass
    return json.dumps(_cut(value, LEVELS_MAX, []), ensure_ascii=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """Return a value that a tool or a state has as JSON can say it: bytes in base64, null for what is no number, its
    text for what is anything else."""
    try:
        return to_jsonable_python(value, serialize_unknown=True, bytes_mode="base64", inf_nan_mode="null")
    except (PydanticSerializationError, ValueError, RecursionError):  # half a character, or what holds itself
        return _cut(value, LEVELS_MAX, [])


def dumped(model: BaseModel, **options: Any) -> bytes:
    """Return a model as JSON that can be read again, whatever tools and states put in it."""
    try:
        data = model.model_dump_json(fallback=repr, **options).encode()
        if not is_deep(data):
            return data
    except (PydanticSerializationError, ValueError, RecursionError):
        pass
    return json_of(model.model_dump(**options)).encode()


def _cut(value: Any, levels: int, inside: list[Any]) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if not isinstance(value, dict | list | tuple | set | frozenset):
        try:
            return to_jsonable_python(value, serialize_unknown=True, bytes_mode="base64", inf_nan_mode="null")
        except (PydanticSerializationError, ValueError, RecursionError):
            return f"<{type(value).__name__}>"
    if not levels or any(one is value for one in inside):
        return "…"
    inside = [*inside, value]
    if isinstance(value, dict):
        return {without_surrogates(str(key)): _cut(item, levels - 1, inside) for key, item in value.items()}
    return [_cut(item, levels - 1, inside) for item in value]
