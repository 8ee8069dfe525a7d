"""What a LangGraph graph stops at, as questions to people, and their answers as it takes them.

A value of `interrupt(…)` may be anything. Those by which LangChain's agents ask for a yes to tool calls are asked one
by one, as every framework's are; any other goes to the client as it is, with the schema that the graph gave.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.types import Interrupt as GraphInterrupt
from langgraph.types import StateSnapshot

from gapless.agents.approving import UNCLEAR, Decision, approval, read_decision
from gapless.agents.langgraph_saver import MESSAGES
from gapless.agents.values import json_of, plain
from gapless.events import Interrupt, ResumeEntry

__all__ = ["Question", "questions_of"]

VALUE_CHARS_MAX = 500
"""Of a value that stands for its question's text; the whole is in the metadata."""


class Question:
    """Is what one place of a graph has stopped at: `interrupts` to ask, by id."""

    def __init__(self, id: str, interrupts: Mapping[str, Interrupt]) -> None:
        self.id = id
        self.interrupts = interrupts

    def read(self, entry: ResumeEntry) -> Any:
        """Return what is made of one answer; None where it is none."""
        return entry

    def answer(self, read: Sequence[Any]) -> Any:
        """Return what the graph is given for the answers that were read."""
        entry: ResumeEntry = read[0]
        return entry.payload if entry.status == "resolved" else None


class _Approvals(Question):
    """Asks for a yes to each of the `calls` (name, arguments); `together` as the graph wants the decisions."""

    def __init__(
        self, id: str, interrupts: Mapping[str, Interrupt], calls: Sequence[tuple[str, Any]], *, together: bool
    ) -> None:
        super().__init__(id, interrupts)
        self._calls = calls
        self._together = together

    def read(self, entry: ResumeEntry) -> Any:
        payload = entry.payload
        if entry.status == "resolved" and isinstance(payload, dict) and isinstance(payload.get("type"), str):
            return payload  # in LangChain's own words
        return read_decision(entry)

    def answer(self, read: Sequence[Any]) -> Any:
        decisions = [
            _decision(one, name, arguments) if isinstance(one, Decision) else one
            for one, (name, arguments) in zip(read, self._calls, strict=True)
        ]
        return {"decisions": decisions} if self._together else decisions[0]


def _decision(decision: Decision, name: str, arguments: Any) -> dict[str, Any]:
    if not decision.approved:
        return {"type": "reject", **({"message": decision.reason} if decision.reason else {})}
    if decision.arguments is None or decision.arguments == arguments:
        return {"type": "approve"}
    return {"type": "edit", "edited_action": {"name": name, "args": decision.arguments}}


def questions_of(state: StateSnapshot, unclear: Collection[str]) -> list[Question]:
    """Return what the graph has stopped at in this state; `unclear` are the ids of those whose answer it did not
    take."""
    if not state.interrupts:  # a breakpoint: `interrupt_before`, `interrupt_after`
        places = ", ".join(state.next)
        id = f"breakpoint-{state.config.get('configurable', {}).get('checkpoint_id') or places}"
        question = Interrupt(
            id=id,
            reason="input_required",
            message=f"Go on with {places}?",
            metadata={"kind": "breakpoint", "next": [*state.next]},
        )
        return [Question(id, {id: question})]
    return [_question(one, state, unclear) for one in state.interrupts]


def _question(interrupt: GraphInterrupt, state: StateSnapshot, unclear: Collection[str]) -> Question:
    value, id = plain(interrupt.value), interrupt.id
    if isinstance(value, dict):
        if value.get("type") == "tool_approval" and "name" in value:
            name, arguments = value["name"], value.get("args") or {}
            message = value.get("description") or None
            asked = approval(id, value.get("tool_call_id"), name, arguments, message=message)
            return _Approvals(id, {id: asked}, [(name, arguments)], together=False)
        actions = value.get("action_requests")
        if isinstance(actions, list) and actions and all(isinstance(one, dict) and "name" in one for one in actions):
            return _together(id, actions, state)
    schema = interrupt.response_schema
    text = _text_of(value)
    if id in unclear:
        text = f"{text or ''} {UNCLEAR}".strip()
    asked = Interrupt(
        id=id,
        reason="input_required",
        message=text,
        response_schema=schema if isinstance(schema, dict) else None,
        metadata={"kind": "question", "value": value},
    )
    return Question(id, {id: asked})


def _text_of(value: Any) -> str | None:
    """Return what a person is asked: a text in it, else the value itself. Not every client looks at the metadata."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        for key in ("message", "question", "description"):
            if isinstance(said := value.get(key), str):
                return said
    shown = json_of(value)
    return shown if len(shown) <= VALUE_CHARS_MAX else f"{shown[: VALUE_CHARS_MAX - 1]}…"


def _together(id: str, actions: Sequence[dict[str, Any]], state: StateSnapshot) -> Question:
    """Return the calls of one answer of the model that a person is asked about together."""
    calls = [(one["name"], one.get("args", one.get("arguments")) or {}) for one in actions]
    known = _last_calls(state)
    interrupts: dict[str, Interrupt] = {}
    for index, (name, arguments) in enumerate(calls):
        call_id = next((key for key, call in known.items() if call == (name, arguments)), None)
        known.pop(call_id or "", None)
        one = id if len(calls) == 1 else f"{id}-{index}"
        message = actions[index].get("description") if isinstance(actions[index].get("description"), str) else None
        interrupts[one] = approval(one, call_id, name, arguments, message=message)
    return _Approvals(id, interrupts, calls, together=True)


def _last_calls(state: StateSnapshot) -> dict[str, tuple[str, Any]]:
    messages = state.values.get(MESSAGES) if isinstance(state.values, dict) else None
    for message in reversed(messages or ()):
        if isinstance(message, AIMessage) and message.tool_calls:
            return {call["id"] or "": (call["name"], plain(call["args"])) for call in message.tool_calls}
    return {}
