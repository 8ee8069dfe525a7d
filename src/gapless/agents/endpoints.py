"""Agents by URL: a durable journal in front of a service that has none.

| URL | protocol |
|---|---|
| `http(s)://host/v1`, any URL ending in `/v<number>` or `/chat/completions` | OpenAI-compatible chat completions |
| any URL ending in `/ag-ui` or `/agui` | AG-UI |
| `openai+http(s)://…`, `ag-ui+http(s)://…` | the one that is named |

`?model=` names the model of an OpenAI-compatible service; the rest of a query is sent along.
"""

from __future__ import annotations

import re

import httpx2

from gapless.agents.agui_endpoint import AGUIEndpoint
from gapless.agents.base import Agent
from gapless.agents.endpoint_http import Service
from gapless.agents.openai_chat import OpenAIChat
from gapless.errors import AgentInvalid

__all__ = ["endpoint"]

_REFERENCE = re.compile(r"(?:(?P<protocol>openai|ag-ui)\+)?(?P<url>https?://.+)", re.IGNORECASE)
_OPENAI_PATH = re.compile(r"/(?:v\d+|chat/completions)/?$")
_AGUI_PATH = re.compile(r"/(?:ag-ui|agui)/?$")


def endpoint(reference: str) -> Agent:
    """Return the agent behind a URL. Nothing is connected yet. Raises `AgentInvalid` when the URL does not say
    enough.
    """
    match = _REFERENCE.fullmatch(reference)
    try:
        url = httpx2.URL(match["url"]) if match else httpx2.URL("")
    except httpx2.InvalidURL as error:
        raise AgentInvalid(f"agent URL {reference[:200]!r}: {error}") from None
    if match is None or not url.host:
        raise AgentInvalid(
            f"agent URL {reference[:200]!r}: write http://…, https://…, openai+http://… or ag-ui+http://…"
        )
    if url.userinfo:
        raise AgentInvalid("agent URL: a key does not go into the URL; set GAPLESS_ENDPOINT_KEY")
    url = url.copy_with(fragment=None)
    protocol = (match["protocol"] or _guess(url.path)).lower()
    if protocol == "openai":
        model = url.params.get("model") or None
        params = url.params.remove("model")
        return OpenAIChat(Service(url.copy_with(params=params) if params else url.copy_with(query=None)), model)
    if protocol == "ag-ui":
        return AGUIEndpoint(Service(url))
    raise AgentInvalid(
        f"agent URL {url.copy_with(query=None)}: it does not say which protocol is spoken there; "
        f"write openai+{url.scheme}://… (chat completions) or ag-ui+{url.scheme}://… (AG-UI)"
    )


def _guess(path: str) -> str:
    if _OPENAI_PATH.search(path):
        return "openai"
    return "ag-ui" if _AGUI_PATH.search(path) else ""
