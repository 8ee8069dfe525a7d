"""`PATCH …/memory`, as on ADK's own server: what a session has said is found by a tool in another."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from google.adk.agents import LlmAgent
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.utils.base_agent_loader import BaseAgentLoader
from google.adk.memory import InMemoryMemoryService
from google.adk.runners import Runner as ADKRunner
from google.adk.sessions import InMemorySessionService
from google.adk.tools.load_memory_tool import load_memory_tool

from gapless import Runner
from tests.support.adk import Call, Scripted

CAT = "My cat is called Tom."
ASKED = Call("load_memory", {"query": "cat"})


def helper() -> LlmAgent:
    return LlmAgent(name="helper", model=Scripted(["Noted."], [ASKED], ["Tom."]), tools=[load_memory_tool])


class Loader(BaseAgentLoader):
    def load_agent(self, agent_name: str) -> Any:
        return helper()

    def list_agents(self) -> list[str]:
        return ["helper"]


async def say(client: httpx2.AsyncClient, session: str, text: str) -> list[Any]:
    await client.post(f"/apps/helper/users/u/sessions/{session}")
    message = {"role": "user", "parts": [{"text": text}]}
    body = {"appName": "helper", "userId": "u", "sessionId": session, "newMessage": message}
    response = await client.post("/run", json=body)
    assert response.status_code == 200, response.text
    parts = [part for event in response.json() for part in event.get("content", {}).get("parts", [])]
    return [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]


async def remembered(client: httpx2.AsyncClient) -> str:
    """What a tool finds in the second session."""
    await say(client, "first", CAT)
    response = await client.patch("/apps/helper/users/u/memory", json={"session_id": "first"})
    assert (response.status_code, response.json()) == (200, None)
    (found,) = await say(client, "second", "What is my cat called?")
    return json.dumps(found)


@pytest.mark.parametrize("service", ["here", "of the user's own runner"])
async def test_a_tool_finds_what_another_session_has_said(service: str, client_of: Callable[..., Any]):
    agent: Any = helper()
    if service != "here":
        sessions, memory = InMemorySessionService(), InMemoryMemoryService()
        agent = ADKRunner(app_name="mine", agent=agent, session_service=sessions, memory_service=memory)
    ours = await remembered(await client_of(Runner(agents={"helper": agent})))
    uris = dict.fromkeys(("session_service_uri", "artifact_service_uri", "memory_service_uri"), "memory://")
    own = get_fast_api_app(
        agents_dir=tempfile.mkdtemp(), agent_loader=Loader(), use_local_storage=False, web=False, **uris
    )
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(own), base_url="http://localhost") as client:
        theirs = await remembered(client)
    assert CAT in ours
    assert CAT in theirs


async def test_a_session_that_is_not_there_or_another_users_is_not_remembered(client_of: Callable[..., Any]):
    client = await client_of(Runner(helper()), authenticate=lambda request: request.headers.get("x-user"))
    as_u = {"x-user": "u"}
    path = "/apps/helper/users/u/memory"
    assert (await client.patch(path, json={"session_id": "none"}, headers=as_u)).status_code == 404
    await client.post("/apps/helper/users/u/sessions/s", headers=as_u)
    assert (await client.patch(path, json={"session_id": "s"}, headers={"x-user": "bob"})).status_code == 403
    assert (await client.patch(path, json={}, headers=as_u)).status_code == 422
    assert (await client.patch(path, json={"sessionId": "s"}, headers=as_u)).status_code == 200


async def test_an_agent_without_a_memory_says_so(client_of: Callable[..., Any]):
    sessions = InMemorySessionService()
    runner = ADKRunner(app_name="helper", agent=helper(), session_service=sessions)
    for agent in (runner, lambda message: message):
        client = await client_of(Runner(agents={"helper": agent}))
        await client.post("/apps/helper/users/u/sessions/s")
        refused = await client.patch("/apps/helper/users/u/memory", json={"session_id": "s"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "input_invalid")
