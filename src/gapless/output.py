"""Typed output: validated when it is whole, and read while it grows."""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

import msgspec

from gapless.errors import UsageError
from gapless.events import (
    CustomEvent,
    Event,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
)
from gapless.fold import RESTARTED, void_of

__all__ = ["GrowingOutput", "OutputText", "OutputType"]

OUTPUT_EVENT = "gapless.output"
"""Name of the CUSTOM event by which an agent says that one of its tool calls is the output."""
GROWTH = 16
"""A growing output is read again once it is one part in so many longer: reading all of it costs time in proportion to
its length, not to the square of it."""

_OutputT = TypeVar("_OutputT")


class OutputType(Generic[_OutputT]):
    """Validates JSON values as one type, `output_type`: anything that Pydantic validates, or a msgspec struct.

    Raises `UsageError` for a type that is neither."""

    def __init__(self, output_type: type[_OutputT]) -> None:
        self.type = output_type
        self._adapter: Any = None
        if output_type is not str and not _is_struct(output_type):
            from pydantic import TypeAdapter, errors  # only where output is typed

            try:
                self._adapter = TypeAdapter(output_type)
            except errors.PydanticUserError as error:
                raise UsageError(f"output_type {self.name} cannot be validated: {error.message}") from error

    @staticmethod
    def declared(output_type: Any) -> OutputType[Any]:
        """Return it for what an agent says that its output is; a type that cannot be validated is any JSON value."""
        try:
            return OutputType[Any](str if output_type is None else output_type)
        except UsageError:
            return OutputType[Any](Any)

    @property
    def name(self) -> str:
        return getattr(self.type, "__name__", str(self.type))

    def validate(self, value: Any) -> _OutputT:
        """Return the output that `value` is. A string takes any value, as its JSON text. Raises `ValueError`."""
        if self.type is str:
            return value if isinstance(value, str) else json.dumps(value)  # type: ignore[return-value]  # it is str
        if self._adapter is None:
            return msgspec.convert(value, self.type)
        return self._adapter.validate_python(value)  # type: ignore[no-any-return]  # what the adapter is made for

    def validate_partial(self, text: str, key: str | None) -> _OutputT:
        """Return the output as far as its JSON, `text`, goes; `key` names the member that holds it. Raises
        `ValueError`.
        """
        if self.type is str and key is None:
            return text  # type: ignore[return-value]  # it is str
        from pydantic_core import from_json

        value = from_json(text, allow_partial="trailing-strings")
        if key is not None:
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"no {key} yet")
            value = value[key]
        if self._adapter is None:
            return self.validate(value)
        return self._adapter.validate_python(value, experimental_allow_partial="trailing-strings")  # type: ignore[no-any-return]


class GrowingOutput(Generic[_OutputT]):
    """Reads the output of a run while its events come in: the tool call that the agent named as its output, or else the
    text of its latest message.
    """

    def __init__(self, output_type: OutputType[_OutputT]) -> None:
        self.values: list[_OutputT] = []
        """The latest valid output; empty while there is none."""
        self._type = output_type
        self._text: list[str] = []
        self._text_id = ""
        self._others: set[str] = set()
        """Messages that are not the assistant's."""
        self._calls: dict[str, list[str]] = {}
        self._call: str | None = None
        self._key: str | None = None
        self._size = self._next_at = 0

    def add(self, event: Event) -> bool:
        """Take one `event`; returns whether there is a new value."""
        if isinstance(event, TextMessageContentEvent):
            if event.message_id in self._others:
                return False
            self._text.append(event.delta)
            return self._call is None and self._grown(self._text, len(event.delta))
        if isinstance(event, ToolCallArgsEvent):
            parts = self._calls.get(event.tool_call_id)
            if parts is None:
                return False
            parts.append(event.delta)
            return event.tool_call_id == self._call and self._grown(parts, len(event.delta))
        if isinstance(event, TextMessageStartEvent):
            self._begin(event)
        elif isinstance(event, ToolCallStartEvent):
            self._calls[event.tool_call_id] = []
        elif isinstance(event, ToolCallEndEvent):
            self._calls.pop(event.tool_call_id, None)
        elif isinstance(event, CustomEvent) and event.name == OUTPUT_EVENT and isinstance(event.value, dict):
            self._call, self._key = event.value.get("toolCallId"), event.value.get("key")
            self._restart()
            begun = self._calls.get(self._call or "", [])
            return bool(begun) and self._grown(begun, sum(len(part) for part in begun))
        elif isinstance(event, CustomEvent):
            self._take_back(event)
        return False

    def _begin(self, event: TextMessageStartEvent) -> None:
        if event.role not in (None, "assistant"):
            self._others.add(event.message_id)
            return
        self._others.discard(event.message_id)
        self._text, self._text_id = [], event.message_id
        if self._call is None:
            self._restart()

    def _take_back(self, event: CustomEvent) -> None:
        """Forget what the event says is void; the latest value stays until there is another."""
        void = void_of(event)
        if event.name == RESTARTED:
            self._text, self._calls, self._call, self._key = [], {}, None, None
        elif void is None:
            return
        else:
            if self._text_id in void.message_ids:
                self._text = []
            elif self._text_id in void.cut:
                self._text = ["".join(self._text)[: void.cut[self._text_id]]]
            for id in void.tool_call_ids:
                self._calls.pop(id, None)
                if id == self._call:
                    self._call = self._key = None
        self._restart()

    def _restart(self) -> None:
        self._size = self._next_at = 0

    def _grown(self, parts: list[str], chars: int) -> bool:
        self._size += chars
        if self._size < self._next_at:
            return False
        self._next_at = self._size + self._size // GROWTH
        try:
            value = self._type.validate_partial("".join(parts), self._key)
        except ValueError:  # not yet
            return False
        if self.values and self.values[0] == value:
            return False
        self.values = [value]
        return True


class OutputText:
    """The output of a run for those who are shown text alone: its JSON at the end, or a text as it is.

    Nothing where the agent wrote its output as text itself, or said something else after it. Takes the events that
    tell; the others may be left out.
    """

    __slots__ = ("_since", "_spoken")

    def __init__(self) -> None:
        self._since: set[str] = set()
        """Messages that were said since the run began, or since the agent named its output."""
        self._spoken = False

    def add(self, event: TextMessageStartEvent | CustomEvent | RunFinishedEvent) -> str:
        """Take one `event`; returns the text that is to be shown before it, if any."""
        if isinstance(event, TextMessageStartEvent):
            if event.role in (None, "assistant"):
                self._since.add(event.message_id)
                self._spoken = True
        elif isinstance(event, CustomEvent):
            if event.name == OUTPUT_EVENT:
                self._since.clear()
            elif (void := void_of(event)) is not None:
                self._since.difference_update(void.message_ids)
        elif (
            not self._since and event.result is not None and isinstance(event.outcome, RunFinishedSuccessOutcome | None)
        ):
            text = event.result if isinstance(event.result, str) else msgspec.json.encode(event.result).decode()
            return f"\n\n{text}" if self._spoken else text
        return ""


def _is_struct(output_type: Any) -> bool:
    return isinstance(output_type, type) and issubclass(output_type, msgspec.Struct)
