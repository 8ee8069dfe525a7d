"""What a Pydantic AI agent asks a person: approvals, answers, the results of what is executed elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_ai import exceptions
from pydantic_ai import messages as m
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied

from gapless.agents.base import RunContext
from gapless.agents.pydantic_ai_ledger import UNKNOWN, Ledger
from gapless.agents.values import plain
from gapless.events import Interrupt, ResumeEntry

__all__ = ["Asking"]

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

UNCLEAR = ' (The answer was not understood: send {"approved": true} or {"approved": false}.)'
"""Asked once more, a question says why."""


class Asking:
    """Interrupts a run for the calls that its agent leaves to others."""

    def __init__(self, ctx: RunContext, ledger: Ledger) -> None:
        self._ctx = ctx
        self._ledger = ledger
        self._lock = asyncio.Lock()

    async def ask(self, _: Any, requests: DeferredToolRequests) -> DeferredToolResults:
        """Interrupt the run until every deferred call is answered. An answer that is none is asked for again: a
        malformed one neither approves a call nor costs the run. Calls of the client's own tools are left to the client:
        they end the run."""
        results, ledger = DeferredToolResults(), self._ledger
        own = {tool.name for tool in self._ctx.tools}
        calls = (call for call in requests.calls if call.tool_name not in own)
        async with self._lock:  # calls deferred one by one may come at once; a run waits for one set of answers
            pending: dict[str, tuple[str, m.ToolCallPart]] = {}
            for call in (*requests.approvals, *calls):
                kind: str = "repeat" if call.tool_call_id in ledger.lost else requests.kind(call.tool_call_id)
                known = ledger.answer(kind, call.tool_call_id)
                if known is None or not self._take(known, kind, results):
                    pending[call.tool_call_id] = kind, call
            unclear: set[str] = set()
            while pending:
                asked = [
                    _interrupt(call, kind, requests.metadata.get(id), unclear=id in unclear)
                    for id, (kind, call) in pending.items()
                ]
                await ledger.save()
                for entry in await self._ctx.interrupt(asked):
                    id = entry.interrupt_id
                    if id not in pending:
                        continue
                    kind, _call = pending[id]
                    if self._take(entry, kind, results):
                        ledger.answered(kind, entry)
                        del pending[id]
                    else:
                        unclear.add(id)
                if not pending:
                    await ledger.save()
        return results

    def _take(self, entry: ResumeEntry, kind: str, results: DeferredToolResults) -> bool:
        """Make a call's result of a person's answer; False if it is none."""
        id = entry.interrupt_id
        if kind not in ("approval", "repeat"):
            results.calls[id] = _call_answer(entry)
            return True
        approval = _approval(entry)
        if approval is None:
            return False
        if kind == "repeat":
            if isinstance(approval, ToolApproved):
                self._ledger.repeat(id)
            else:
                approval = ToolDenied(f"{UNKNOWN} It is not made again: {approval.message}")
        results.approvals[id] = approval
        return True


def _interrupt(call: m.ToolCallPart, kind: str, metadata: dict[str, Any] | None, *, unclear: bool) -> Interrupt:
    approval = kind in ("approval", "repeat")
    messages = {
        "approval": f"Approve the call of {call.tool_name}?",
        "repeat": f"Make the call of {call.tool_name} again? It is unknown whether it took effect: the process that "
        "made it was lost.",
        "question": f"{call.tool_name} asks for an answer.",
        "external": f"{call.tool_name} is executed outside of the agent; answer with its result.",
    }
    return Interrupt(
        id=call.tool_call_id,
        reason="input_required" if kind == "question" else "tool_call",
        message=messages[kind] + (UNCLEAR if unclear else ""),
        tool_call_id=call.tool_call_id,
        response_schema=APPROVAL_SCHEMA if approval else None,
        metadata={
            "kind": "approval" if approval else kind,
            "toolName": call.tool_name,
            "arguments": call.args_as_dict(),
            **plain(metadata or {}),
        },
    )


def _approval(entry: ResumeEntry) -> ToolApproved | ToolDenied | None:
    """Return the decision; None for a payload that is none. Nothing but a clear yes approves."""
    if entry.status == "cancelled":
        return ToolDenied("Cancelled by the user.")
    payload = entry.payload if isinstance(entry.payload, dict) else {"approved": entry.payload}
    approved, edited = payload.get("approved"), payload.get("editedArgs")
    if approved is True and (edited is None or isinstance(edited, dict)):
        return ToolApproved(override_args=edited)
    if approved is False:
        reason = payload.get("reason")
        return ToolDenied(reason) if isinstance(reason, str) and reason else ToolDenied()
    return None


def _call_answer(entry: ResumeEntry) -> Any:
    if entry.status != "cancelled":
        return entry.payload
    error = entry.payload.get("error") if isinstance(entry.payload, dict) else None
    return exceptions.ToolFailed(error if isinstance(error, str) and error else "Cancelled by the user.")
