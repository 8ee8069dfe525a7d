"""What steps return, as JSON and as a type again: the same whether or not their run can go on at another worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec

from gapless.agents.base import call_step
from gapless.errors import AgentInvalid

__all__ = ["call_unkept", "decode_step", "encode_step"]

ALLOWED = "JSON's own values, dataclasses, msgspec structs, Pydantic models, and lists and dicts of them"


def encode_step(returned: Any, key: str, run_id: str) -> bytes:
    """Encode what the step `key` of run `run_id` returned. Raises `AgentInvalid` where that is no JSON."""
    try:
        return _encode(returned)
    except (TypeError, ValueError, RecursionError) as error:
        why = f"{error}; a step returns {ALLOWED}: of anything else what is to be kept (such as its model_dump())"
        raise AgentInvalid(f"run {run_id}: what {key} returned is no JSON: {why}", run_id=run_id) from None


def decode_step(encoded: bytes, as_type: Any, key: str, run_id: str) -> Any:
    """Return what the step `key` of run `run_id` returned, as `as_type`. Raises `AgentInvalid` where it is no such, and
    for a type that nothing can be made as."""
    try:
        return msgspec.json.decode(encoded, type=as_type, dec_hook=_as_other)
    except msgspec.ValidationError as error:
        why = f"what {key} returned is no {_name(as_type)}: {error}"
    except (TypeError, NotImplementedError) as error:
        why = f"what {key} returned cannot come back as {_name(as_type)}: {error or 'unknown'}; `type` is of {ALLOWED}"
    raise AgentInvalid(f"run {run_id}: {why}", run_id=run_id)


async def call_unkept(run_id: str, name: str, function: Callable[..., Any], args: tuple[Any, ...], as_type: Any) -> Any:
    """Do the step `name` of a run that cannot go on: it comes back as from a run that can, and nothing is kept."""
    key = f"step {name}"
    return decode_step(encode_step(await call_step(function, *args), key, run_id), as_type, key, run_id)


def _is_model(a_type: Any) -> bool:
    """Tell whether it is a class of Pydantic's models."""
    # Gapless does not depend on Pydantic; where there is a model, it is imported.
    pydantic: Any = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(a_type, type) and issubclass(a_type, pydantic.BaseModel)


def _from_other(value: Any) -> Any:
    if not _is_model(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    # By the names of its fields, which are one for both ways; aliases may be others to write than to read.
    return msgspec.Raw(value.model_dump_json(round_trip=True, by_alias=False).encode())


def _as_other(as_type: Any, value: Any) -> Any:
    if not _is_model(as_type):
        if isinstance(value, as_type):
            return value
        raise NotImplementedError(f"{_name(as_type)} is none of what can be made of JSON")
    try:
        # From JSON: a strict model takes no text for a date otherwise.
        return as_type.model_validate_json(_encode(value), by_alias=True, by_name=True)
    except sys.modules["pydantic"].ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in found[:3])
        raise ValueError(told) from None  # without what was put in, which may be anybody's words


def _name(as_type: Any) -> str:
    return as_type.__name__ if isinstance(as_type, type) else str(as_type)


_encode = msgspec.json.Encoder(enc_hook=_from_other).encode
