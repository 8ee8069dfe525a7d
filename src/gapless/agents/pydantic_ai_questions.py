"""What a Pydantic AI agent asks a person: approvals, answers, the results of what is executed elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_ai import exceptions
from pydantic_ai import messages as m
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied

from gapless.agents.approving import approval, ask, read_decision
from gapless.agents.base import RunContext
from gapless.agents.pydantic_ai_ledger import UNKNOWN, Ledger
from gapless.agents.values import plain
from gapless.events import Interrupt, ResumeEntry

__all__ = ["Asking"]

_APPROVALS = ("approval", "repeat")


class Asking:
    """Interrupts a run for the calls that its agent leaves to others."""

    def __init__(self, ctx: RunContext, ledger: Ledger) -> None:
        self._ctx = ctx
        self._ledger = ledger
        self._lock = asyncio.Lock()

    async def ask(self, _: Any, requests: DeferredToolRequests) -> DeferredToolResults:
        """Interrupt the run until every deferred call is answered. Calls of the client's own tools are left to the
        client: they end the run."""
        results, ledger = DeferredToolResults(), self._ledger
        own = {tool.name for tool in self._ctx.tools}
        calls = [*requests.approvals, *(call for call in requests.calls if call.tool_name not in own)]
        async with self._lock:  # calls deferred one by one may come at once; a run waits for one set of answers
            kinds: dict[str, str] = {}
            questions: dict[str, Interrupt] = {}
            for call in calls:
                id = call.tool_call_id
                kinds[id] = kind = "repeat" if id in ledger.lost else requests.kind(id)
                known = ledger.answer(kind, id)
                if known is None or not self._take(known, kind, results):
                    questions[id] = _question(call, kind, requests.metadata.get(id))

            def read(entry: ResumeEntry) -> ResumeEntry | None:
                kind = kinds[entry.interrupt_id]
                if not self._take(entry, kind, results):
                    return None
                ledger.answered(kind, entry)
                return entry

            if questions:
                await ask(self._ctx, questions, read, ledger.save)
                await ledger.save()
        return results

    def _take(self, entry: ResumeEntry, kind: str, results: DeferredToolResults) -> bool:
        """Make a call's result of a person's answer; False if it is none."""
        id = entry.interrupt_id
        if kind not in _APPROVALS:
            results.calls[id] = _call_answer(entry)
            return True
        decision = read_decision(entry)
        if decision is None:
            return False
        if decision.approved:
            results.approvals[id] = ToolApproved(override_args=decision.arguments)
            if kind == "repeat":
                self._ledger.repeat(id)
        else:
            denied = ToolDenied(decision.reason) if decision.reason else ToolDenied()
            if kind == "repeat":
                denied = ToolDenied(f"{UNKNOWN} It is not made again: {denied.message}")
            results.approvals[id] = denied
        return True


def _question(call: m.ToolCallPart, kind: str, metadata: dict[str, Any] | None) -> Interrupt:
    id, name, arguments, more = call.tool_call_id, call.tool_name, call.args_as_dict(), plain(metadata or {})
    if kind in _APPROVALS:
        again = "It is unknown whether it took effect: the process that made it was lost."
        message = f"Make the call of {name} again? {again}" if kind == "repeat" else None
        return approval(id, id, name, arguments, message=message, metadata=more)
    asks = kind == "question"
    outside = f"{name} is executed outside of the agent; answer with its result."
    return Interrupt(
        id=id,
        reason="input_required" if asks else "tool_call",
        message=f"{name} asks for an answer." if asks else outside,
        tool_call_id=id,
        metadata={"kind": kind, "toolName": name, "arguments": arguments, **more},
    )


def _call_answer(entry: ResumeEntry) -> Any:
    if entry.status != "cancelled":
        return entry.payload
    error = entry.payload.get("error") if isinstance(entry.payload, dict) else None
    return exceptions.ToolFailed(error if isinstance(error, str) and error else "Cancelled by the user.")
