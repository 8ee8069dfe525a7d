"""Return what may stand in a journal: an event that can be read again, as it will be read."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from gapless.errors import AgentInvalid
from gapless.events import EventBase, decode_event, encode_event
from gapless.jsontext import DEPTH_MAX, is_deep, with_plain_lines, without_surrogates

__all__ = ["sound"]

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
    except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError) as error:
        raise AgentInvalid(f"a {name} cannot be written as JSON: {error}") from None
    if is_deep(encoded):
        raise AgentInvalid(f"a {name} is nested deeper than {DEPTH_MAX} levels")
    return checked, encoded
