"""What an agent asks a person about its tool calls, and the answers, read strictly. For adapters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from gapless.agents.base import RunContext
from gapless.events import Interrupt, ResumeEntry

__all__ = ["APPROVAL_SCHEMA", "Decision", "approval", "ask", "read_decision"]

APPROVAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "editedArgs": {"type": "object"},
        "reason": {"type": "string"},
    },
    "required": ["approved"],
}
"""What answers an approval: JSON Schema of the payload, the shape that AG-UI clients send."""
UNCLEAR = "(The answer was not understood.)"
"""Asked once more, a question says why."""
UNCLEAR_APPROVAL = '(The answer was not understood: send {"approved": true} or {"approved": false}.)'

_T = TypeVar("_T")


class Decision(NamedTuple):
    """Says whether a call may be made (`approved`), with which `arguments` in place of its own, or for what `reason`
    not."""

    approved: bool
    arguments: dict[str, Any] | None = None
    reason: str | None = None


def approval(
    id: str,
    call_id: str | None,
    name: str,
    arguments: Any,
    *,
    message: str | None = None,
    schema: dict[str, Any] = APPROVAL_SCHEMA,
    metadata: Mapping[str, Any] | None = None,
) -> Interrupt:
    """Make the question `id`: may the call `call_id` of the tool `name` be made with these `arguments`? `message` is
    what the person is told, `schema` what answers it, and `metadata` what a client may need beside that."""
    return Interrupt(
        id=id,
        reason="tool_call",
        message=message or f"Approve the call of {name}?",
        tool_call_id=call_id,
        response_schema=schema,
        metadata={"kind": "approval", "toolName": name, "arguments": arguments, **(metadata or {})},
    )


def read_decision(entry: ResumeEntry) -> Decision | None:
    """Return what `entry` decides; None where it is no decision. Nothing but a clear yes approves."""
    if entry.status == "cancelled":
        return Decision(False, reason="Cancelled by the user.")
    payload = entry.payload if isinstance(entry.payload, dict) else {"approved": entry.payload}
    approved, edited, reason = payload.get("approved"), payload.get("editedArgs"), payload.get("reason")
    if approved is True and (edited is None or isinstance(edited, dict)):
        return Decision(True, arguments=edited)
    if approved is False:
        return Decision(False, reason=reason if isinstance(reason, str) and reason else None)
    return None


async def ask(
    ctx: RunContext,
    questions: Mapping[str, Interrupt],
    read: Callable[[ResumeEntry], _T | None],
    before: Callable[[], Awaitable[None]] | None = None,
) -> dict[str, _T]:
    """Ask `questions`, by id, in the run `ctx` until `read` has made something of each answer, and return that by the
    same ids. One that is not understood neither approves a call nor costs the run: it is asked for again.
    `before` is awaited before the first asking: what saves where the run stands, so that it can be parked. Whoever goes
    on from there asks all of `questions`, and is given the answers that have come since."""
    found: dict[str, _T] = {}
    unclear: set[str] = set()
    if before is not None and questions:
        # Once: what is clear is found here alone, and a later save would keep that it was asked and not what was said.
        await before()
    while pending := [one for id, one in questions.items() if id not in found]:
        for entry in await ctx.interrupt([_again(one) if one.id in unclear else one for one in pending]):
            if entry.interrupt_id in found or entry.interrupt_id not in questions:
                continue
            answer = read(entry)
            if answer is None:
                unclear.add(entry.interrupt_id)
            else:
                found[entry.interrupt_id] = answer
    return found


def _again(question: Interrupt) -> Interrupt:
    why = UNCLEAR_APPROVAL if (question.metadata or {}).get("kind") == "approval" else UNCLEAR
    return msgspec.structs.replace(question, message=f"{question.message or ''} {why}".strip())
