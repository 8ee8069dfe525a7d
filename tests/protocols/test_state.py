"""What a client may write into state: what is its session's and its user's, nothing that other users' agents read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gapless import Runner
from gapless.agents.base import RunContext

SESSION = "/apps/seeing/users/anonymous/sessions"
SHARED = {"app:tone": "rude", "mine": 1}
RUN = {"userId": "anonymous", "sessionId": "s", "newMessage": {"parts": [{"text": "?"}]}}
WRITES: dict[str, tuple[str, str, Any]] = {
    "session": ("POST", "/sessions", {"id": "t", "state": SHARED}),
    "adk session": ("POST", SESSION, {"sessionId": "t", "state": SHARED}),
    "adk session by id": ("POST", SESSION + "/t", SHARED),
    "adk patch": ("PATCH", SESSION + "/s", {"stateDelta": SHARED}),
    "adk run": ("POST", "/run", {**RUN, "stateDelta": SHARED}),
    "adk run, streamed": ("POST", "/run_sse", {**RUN, "streaming": True, "stateDelta": SHARED}),
}
"""By name: method, path and body of a request that sets state which all users of an app share."""


class Seeing:
    name = "seeing"

    def __init__(self) -> None:
        self.states: list[Any] = []

    async def run(self, ctx: RunContext) -> AsyncIterator[str]:
        self.states.append(ctx.state)
        yield "seen"


@pytest.mark.parametrize("name", WRITES)
async def test_state_that_all_users_share_is_the_operators(name: str, client_of: Callable[..., Any]):
    agent = Seeing()
    runner = Runner(agent)
    client = await client_of(runner)
    await client.post(SESSION + "/s")
    method, path, body = WRITES[name]
    refused = await client.request(method, path, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_authorized"), refused.text
    assert "app:tone" in refused.json()["error"]["message"]
    assert agent.states == []
    assert all("mine" not in session.state for session in await runner.list_sessions())


@pytest.mark.parametrize("name", WRITES)
async def test_an_operator_may_leave_it_to_clients(name: str, client_of: Callable[..., Any]):
    client = await client_of(Runner(Seeing()), shared_state=True)
    await client.post(SESSION + "/s")
    method, path, body = WRITES[name]
    taken = await client.request(method, path, json=body)
    assert taken.status_code in (200, 201), taken.text


async def test_a_client_that_sends_all_state_back_sets_what_is_its_own(client_of: Callable[..., Any]):
    agent = Seeing()
    client = await client_of(Runner(agent))
    body = {"threadId": "s", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "?"}], "state": SHARED}
    assert (await client.post("/ag-ui", json=body)).status_code == 200
    assert agent.states == [{"mine": 1}]
