"""Calls of an ADK agent that wait for an answer from outside, as interrupts, and the answers as ADK takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from google.genai import types

from gapless.agents.adk_turn import CONFIRMATION, CREDENTIAL, INPUT, without_secrets
from gapless.agents.approving import approval
from gapless.agents.values import plain
from gapless.events import Interrupt, ResumeEntry
from gapless.jsontext import decode_json

__all__ = ["interrupt_for", "lost_while", "response_to", "whether_again"]

_APPROVAL = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "payload": {}},
    "required": ["approved"],
}
_FOR_PROGRAMS = "ToolConfirmation payload."
"""How ADK's own hint for `require_confirmation` ends: it names parts of its API, not what a person does."""


def interrupt_for(call: types.FunctionCall, call_id: str, shown_id: Callable[[str], str], first: Any) -> Interrupt:
    """Make the question for one call. `first` is the response of a tool that goes on elsewhere, or None; `shown_id` the
    id under which the stream knows a call."""
    args: dict[str, Any] = plain(call.args or {})
    adk: dict[str, Any] = {"name": call.name, "args": args}
    if call.name == CONFIRMATION:
        return _approval(call, call_id, adk, shown_id)
    if call.name == INPUT:
        schema = args.get("response_schema") or args.get("responseSchema")
        return Interrupt(
            id=call_id,
            reason="input_required",
            message=args.get("message"),
            response_schema=schema if isinstance(schema, dict) else None,
            metadata={"kind": "question", "adk": adk},
        )
    if call.name == CREDENTIAL:
        adk["args"] = without_secrets(args)
        return Interrupt(
            id=call_id,
            reason="credential_required",
            message="The agent needs you to sign in.",
            metadata={"kind": "credential", "adk": adk},
        )
    if first is not None:
        adk["response"] = plain(first)
    return Interrupt(
        id=call_id,
        reason="tool_call",
        message=f"{call.name} is executed outside of the agent; answer with its result.",
        tool_call_id=shown_id(call_id),
        metadata={"kind": "external", "toolName": call.name, "arguments": args, "adk": adk},
    )


def _approval(call: types.FunctionCall, call_id: str, adk: dict[str, Any], shown_id: Callable[[str], str]) -> Interrupt:
    original = _original(call)
    hint = (adk["args"].get("toolConfirmation") or {}).get("hint")
    return approval(
        call_id,
        shown_id(original.get("id") or ""),
        original.get("name") or "",
        original.get("args") or {},
        message=None if isinstance(hint, str) and hint.endswith(_FOR_PROGRAMS) else hint,
        schema=_APPROVAL,
        metadata={"adk": adk},
    )


def lost_while(tools: Iterable[str]) -> str:
    """Return what asks a person whether that which these tools did is done again."""
    names = " and ".join(dict.fromkeys(tools))
    return f"The server was lost while {names} ran. It may have taken effect. Run it again?"


def whether_again(id: str, call: types.FunctionCall, tools: Iterable[str]) -> types.FunctionCall:
    """Return the question `id`, in ADK's form, whether a call that was lost while these tools ran is made again."""
    asked = {
        "originalFunctionCall": call.model_dump(exclude_none=True, by_alias=True),
        "toolConfirmation": {"hint": lost_while(tools), "confirmed": False},
    }
    return types.FunctionCall(id=id, name=CONFIRMATION, args=asked)


def _original(call: types.FunctionCall) -> dict[str, Any]:
    """Return the call, as JSON, that a person is asked to confirm by this one."""
    return plain(call.args or {}).get("originalFunctionCall") or {}


def response_to(call: types.FunctionCall, entry: ResumeEntry) -> dict[str, Any] | None:
    """Return a person's answer in the form that ADK wants for this call; None where it is none. Nothing but a clear yes
    approves, and none that wants other arguments: ADK makes a call as the model made it or not at all."""
    payload, cancelled = entry.payload, entry.status == "cancelled"
    if call.name == CONFIRMATION:
        if isinstance(payload, dict) and list(payload) == ["response"] and isinstance(payload["response"], str):
            with contextlib.suppress(msgspec.DecodeError):  # what is no JSON says nothing
                payload = decode_json(payload["response"])  # as ADK's own clients wrap it
        answer = payload if isinstance(payload, dict) else {"approved": payload}
        approved = False if cancelled else answer.get("approved", answer.get("confirmed"))
        edited = answer.get("editedArgs")
        if approved is True and edited is not None and edited != _original(call).get("args", {}):
            return None
        return {"confirmed": approved, "payload": answer.get("payload")} if isinstance(approved, bool) else None
    if cancelled:
        return {"error": (payload.get("error") if isinstance(payload, dict) else None) or "cancelled"}
    response = payload if isinstance(payload, dict) else {"result": payload}
    return response if _fits(call, response) else None


def _fits(call: types.FunctionCall, response: dict[str, Any]) -> bool:
    """Return whether ADK takes this answer: where it does not, it would raise with the answer in the session already,
    and never get past it."""
    schema = (call.args or {}).get("response_schema")
    if call.name != INPUT or schema is None or list(response) == ["error"]:
        return True
    try:
        from google.adk.workflow.utils import _rehydration_utils as resuming

        resuming._validate_resume_response(resuming._unwrap_response(response), schema)
    except (ImportError, AttributeError):  # another version, which says it by itself
        return True
    except ValueError:
        return False
    return True
