"""Events that an application sends through Pydantic AI, as events of a run: its own, and those of AG-UI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from pydantic_ai import messages as m

from gapless.agents.base import AgentItem
from gapless.agents.values import plain
from gapless.agents.writing import file
from gapless.errors import AgentInvalid
from gapless.events import CustomEvent, Event, EventBase, decode_event

__all__ = ["carried_by", "custom"]


def custom(event: m.CustomEvent) -> AgentItem:
    """Return an application's own event, passed on; an event of AG-UI as itself."""
    payload = event.to_payload()
    if isinstance(payload, EventBase):
        return payload  # type: ignore[return-value]  # every event struct is in the union
    if type(payload).__module__.startswith("ag_ui."):
        return _from_ag_ui(payload)
    return CustomEvent(name=event.name, value=plain(payload))


def carried_by(part: m.BaseToolReturnPart[Any]) -> Iterator[Event]:
    """Return the events that a tool's result brings for the application: in its metadata, or as its content.

    They are AG-UI's, or the AI SDK's chunks for data, sources and files, as the framework's own adapters take them.
    """
    carried = part.metadata or part.content
    for item in carried if isinstance(carried, list | tuple | set | frozenset) else (carried,):
        if isinstance(item, EventBase):
            yield item  # type: ignore[misc]  # every event struct is in the union
        elif type(item).__module__.startswith("ag_ui."):
            yield _from_ag_ui(item)
        elif type(item).__module__.startswith("pydantic_ai.ui.vercel_ai."):
            yield from _from_vercel(item)


def _from_vercel(chunk: Any) -> Iterator[Event]:
    """Return a chunk of the AI SDK as an event; one of the protocol's own is none."""
    fields = chunk.model_dump(mode="json", by_alias=True, exclude_none=True)
    kind = fields.pop("type", "")
    if kind in ("source-url", "source-document"):
        yield CustomEvent(name=kind, value=fields)
    elif kind == "file" and "url" in fields:
        yield file(fields.get("mediaType"), url=fields["url"])
    elif kind.startswith("data-"):
        more = {name: fields[name] for name in ("id", "transient") if name in fields}
        yield CustomEvent(name=kind, value=fields.get("data"), metadata=more or None)


def _from_ag_ui(event: Any) -> Event:
    """Return an event of the `ag_ui` package. Raises `AgentInvalid` for one that AG-UI 1.0 does not have."""
    try:
        decoded: Event = decode_event(event.model_dump_json(by_alias=True, exclude_none=True))
    except (AttributeError, msgspec.ValidationError) as error:
        raise AgentInvalid(f"{type(event).__name__} is not an event of AG-UI 1.0: {error}") from None
    return decoded
