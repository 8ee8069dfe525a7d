"""How an ADK agent's turn is kept with the session: its ADK events as JSON. Imports no framework."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gapless.agents.base import SEE_LOG

__all__ = [
    "CONFIRMATION",
    "CREDENTIAL",
    "INPUT",
    "TRANSFER",
    "ADKTurn",
    "decode_turn",
    "failure_in",
    "hide_exception",
    "without_secrets",
]

CONFIRMATION = "adk_request_confirmation"
CREDENTIAL = "adk_request_credential"
INPUT = "adk_request_input"
"""ADK asks its client by function calls of these names."""

TRANSFER = "transfer_to_agent"
"""The function call by which one agent hands over to another."""


class ADKTurn(msgspec.Struct, tag="adk"):
    """One run's ADK events, camelCase and without nulls, the user's first; none where ADK's own service keeps them."""

    run_id: str
    events: list[msgspec.Raw]
    invocations: list[str] = []
    """Ids that ADK has given the run, where its own service keeps the events."""


_decode = msgspec.json.Decoder(ADKTurn).decode
_SECRETS = re.compile(r"(?i)secret|token|password|api_?key|auth_?code|credential_?key|verifier|private")


def decode_turn(native: bytes) -> ADKTurn | None:
    """Return a session's turn in ADK's form; None for what another kind of agent left."""
    try:
        return _decode(native)
    except msgspec.DecodeError:
        return None


def failure_in(response: Any) -> str | None:
    """Return why a call has failed that came to this; None where it has not.

    It goes by what ADK takes for a failure itself: an `error`, an MCP result that says so, the words of its plugin for
    retries, and `"status": "error"` with an `error_message`, as its documents write it.
    """
    if not isinstance(response, dict):
        return None
    error = response.get("error")
    if not error and response.get("status") == "error":
        error = response.get("error_message")
    if not error and response.get("error_type"):
        error = response.get("error_details")
    if not error and (response.get("isError") or response.get("is_error")):
        parts = response.get("content") or ()
        error = "\n".join(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text"))
        error = error or "the tool failed"
    if not error:
        return None
    return error if isinstance(error, str) else msgspec.json.encode(error, enc_hook=str).decode()


def hide_exception(event: dict[str, Any]) -> None:
    """Leave out of ADK's event for an exception, as JSON, the exception's text, which may hold what people wrote."""
    code = event.get("errorCode")
    if code is not None and event.get("content") is None and event.get("finishReason") is None:
        event["errorMessage"] = f"the agent raised {code}{SEE_LOG}"


def without_secrets(value: Any) -> Any:
    """Return an authentication request without what only the server may know."""
    if isinstance(value, dict):
        return {key: without_secrets(item) for key, item in value.items() if not _SECRETS.search(key)}
    return [without_secrets(item) for item in value] if isinstance(value, list) else value
