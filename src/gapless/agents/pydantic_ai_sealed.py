"""What a provider wants back with a thought or a call, as the `encryptedValue` that a client keeps with it.

A thought's is what Pydantic AI's own AG-UI adapter sends. A call's stands under that adapter's name, where it keeps
other things of calls; it would lose this one.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pydantic_core
from pydantic_ai import messages as m

from gapless.events import ReasoningMessage, ToolCall

__all__ = ["sealed", "thought_of", "unseal"]

_NAMESPACE = "pydantic_ai"


def sealed(part: m.ThinkingPart | m.BaseToolCallPart) -> str | None:
    """Return what the client is to keep with a part of a response; None for nothing."""
    fields: dict[str, Any] = {"id": part.id, "provider_details": part.provider_details}
    if isinstance(part, m.ThinkingPart):
        fields["signature"] = part.signature
    fields = {name: value for name, value in fields.items() if value}
    if not fields:
        return None
    if part.provider_name is not None:
        fields["provider_name"] = part.provider_name
    value = fields if isinstance(part, m.ThinkingPart) else {_NAMESPACE: fields}
    return pydantic_core.to_json(value, fallback=str).decode()


def thought_of(message: ReasoningMessage) -> m.ThinkingPart | None:
    """Return the thought as it is given back; None for one without what its provider goes by, as it is no use then."""
    kept = _object(message.encrypted_value)
    if not isinstance(kept.get("id"), str | None) or not isinstance(kept.get("signature"), str | None):
        return None
    if not (kept.get("id") or kept.get("signature") or kept.get("provider_details")):
        return None
    return m.ThinkingPart(
        content=message.content, id=kept.get("id"), signature=kept.get("signature"), **_provider_of(kept)
    )


def unseal(part: m.ToolCallPart, call: ToolCall) -> None:
    """Give a call back what was kept with it."""
    kept = _object(call.encrypted_value).get(_NAMESPACE)
    if isinstance(kept, dict):
        part.id = kept["id"] if isinstance(kept.get("id"), str) else None
        provider = _provider_of(kept)
        part.provider_name, part.provider_details = provider["provider_name"], provider["provider_details"]


def _provider_of(kept: dict[str, Any]) -> dict[str, Any]:
    name, details = kept.get("provider_name"), kept.get("provider_details")
    return {
        "provider_name": name if isinstance(name, str) else None,
        "provider_details": details if isinstance(details, dict) else None,
    }


def _object(value: object) -> dict[str, Any]:
    """Return what a client has kept; nothing for what another framework left there."""
    try:
        found = msgspec.json.decode(value) if isinstance(value, str) else None
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
