"""Return what may stand in a journal: an event that can be read again, as it will be read."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from gapless.agents.base import RunContext
from gapless.errors import AgentInvalid
from gapless.events import EventBase, RunFinishedEvent, decode_event, encode_event
from gapless.jsontext import DEPTH_MAX, is_deep, with_plain_lines, without_surrogates

__all__ = ["sound", "unsound"]

_UNWRITABLE = (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError)
"""What encoding raises for what JSON cannot carry."""

_EventT = TypeVar("_EventT", bound=EventBase)


def sound(event: _EventT) -> tuple[_EventT, bytes]:
    """Return an event as it will be read, and its JSON in one line. What is in the journal can be decoded, by everyone
    and for ever: an agent makes its events without any check of their fields' types, so they are read back here.

    Raises `AgentInvalid`."""
    name = type(event).__name__
    try:
        try:
            encoded = encode_event(event)
        except UnicodeEncodeError:
            encoded = msgspec.json.encode(without_surrogates(msgspec.to_builtins(event)))
        checked: Any = decode_event(encoded)  # of the class of `event`, which its `type` names
        encoded = with_plain_lines(encode_event(checked))  # and not as it came: JSON may have been put in as it was
    except msgspec.DecodeError as error:
        raise AgentInvalid(f"a {name} that is none: {error}") from None
    except _UNWRITABLE as error:
        raise AgentInvalid(f"a {name} cannot be written as JSON: {error}") from None
    if is_deep(encoded):
        raise AgentInvalid(f"a {name} is nested deeper than {DEPTH_MAX} levels")
    return checked, encoded


def unsound(run_id: str, ctx: RunContext | None, own: RunFinishedEvent | None = None) -> AgentInvalid:
    """Return the error of a run whose agent has left what cannot be kept, in `ctx` or in the end that it has given
    itself: what of it that is, and of which type."""
    left: dict[str, Any] = {} if ctx is None else {"state": ctx.state, "result": ctx.result, "usage": ctx.usage}
    what = "the agent's result, state, native turn or usage cannot be written as JSON"
    for name, value in (*left.items(), ("result", own and own.result), ("usage", own and own.usage)):
        try:
            msgspec.json.encode(value)
        except UnicodeEncodeError:  # it is mended, where it can be
            continue
        except _UNWRITABLE as error:
            what = f"the agent's {name} cannot be written as JSON: {error}"
            break
    else:
        if ctx is not None and not isinstance(ctx.native, bytes | None):
            what = f"the agent's native turn is bytes, not of type {type(ctx.native).__name__}"
    hint = "leave plain values, as model_dump(mode='json') makes them of a Pydantic model"
    return AgentInvalid(f"run {run_id}: {what}; {hint}", run_id=run_id)
