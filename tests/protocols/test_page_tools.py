"""Tools that the page executes: their results are the next thing that the model is told, once, and one that never comes
stands in nobody's way. On every wire whose clients bring tools along, with every framework."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gapless import Runner
from gapless.testing import NextTurn, ToolCall
from gapless.testing.agents import Made
from tests.support import frameworks
from tests.support.sse import frames

SCHEMA = {"type": "object", "properties": {}}
TOOL = {"name": "colour", "description": "Ask for a colour.", "parameters": SCHEMA}


def data(content: bytes) -> list[Any]:
    return [json.loads(one.data) for one in frames(content) if one.data.startswith("{")]


class Page:
    """A page that has the tool, and holds what was said. `calls` are those that are the page's to answer."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: list[str] = []
        self.requests = 0

    async def say(self, text: str) -> str:
        """Send a message; return the text of the answer."""
        raise NotImplementedError

    async def bring(self, result: str) -> str:
        """Send what the call has come to."""
        raise NotImplementedError

    async def post(self, path: str, body: Any) -> list[Any]:
        self.requests += 1
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return data(answer.content)


class AGUIPage(Page):
    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.held: list[Any] = []

    async def say(self, text: str) -> str:
        self.held.append({"id": f"u{len(self.held)}", "role": "user", "content": text})
        return await self.ask()

    async def bring(self, result: str) -> str:
        told = {"role": "tool", "toolCallId": self.calls[-1], "content": result}
        self.held.append({"id": f"t{len(self.held)}", **told})
        return await self.ask()

    async def ask(self) -> str:
        body = {"threadId": "s", "runId": f"r{self.requests}", "messages": self.held, "tools": [TOOL]}
        events = await self.post("/ag-ui", body)
        assert events[-1]["type"] == "RUN_FINISHED", events[-1]
        started = [one["toolCallId"] for one in events if one["type"] == "TOOL_CALL_START"]
        self.calls += started
        text = "".join(one["delta"] for one in events if one["type"] == "TEXT_MESSAGE_CONTENT")
        calls = [{"id": id, "type": "function", "function": {"name": "colour", "arguments": "{}"}} for id in started]
        held = {"id": f"a{len(self.held)}", "role": "assistant", "content": text}
        self.held.append({**held, "toolCalls": calls} if calls else held)
        return text


class ChatPage(Page):
    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.held: list[Any] = []

    async def say(self, text: str) -> str:
        self.held.append({"role": "user", "content": text})
        return await self.ask()

    async def bring(self, result: str) -> str:
        self.held.append({"role": "tool", "tool_call_id": self.calls[-1], "content": result})
        return await self.ask()

    async def ask(self) -> str:
        tools = [{"type": "function", "function": TOOL}]
        body = {"model": "a", "messages": self.held, "tools": tools, "stream": True}
        deltas = [one["choices"][0]["delta"] for one in await self.post("/v1/chat/completions", body)]
        text = "".join(one.get("content") or "" for one in deltas)
        calls = [call for one in deltas for call in one.get("tool_calls") or () if call.get("id")]
        self.calls += [call["id"] for call in calls]
        held = [
            {"id": one["id"], "type": "function", "function": {"name": "colour", "arguments": "{}"}} for one in calls
        ]
        self.held.append({"role": "assistant", "content": text} | ({"tool_calls": held} if held else {}))
        return text


class ResponsesPage(Page):
    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.before: str | None = None

    async def say(self, text: str) -> str:
        return await self.ask({"role": "user", "content": text})

    async def bring(self, result: str) -> str:
        return await self.ask({"type": "function_call_output", "call_id": self.calls[-1], "output": result})

    async def ask(self, item: Any) -> str:
        body = {"model": "a", "input": [item], "tools": [{"type": "function", **TOOL}], "stream": True}
        if self.before is not None:
            body["previous_response_id"] = self.before
        response = (await self.post("/v1/responses", body))[-1]["response"]
        assert response["status"] == "completed", response
        self.before = response["id"]
        self.calls += [one["call_id"] for one in response["output"] if one["type"] == "function_call"]
        messages = [one for one in response["output"] if one["type"] == "message"]
        return "".join(part["text"] for one in messages for part in one["content"])


PAGES = (AGUIPage, ChatPage, ResponsesPage)
SCRIPT = ("Which? ", ToolCall("colour"), "Thanks.", NextTurn(), "Thanks.", NextTurn(), "Thanks.")
"""What the model says; some count a result as the user's turn."""


@pytest.mark.parametrize("page_of", PAGES)
@pytest.mark.parametrize("make", [frameworks.function, *frameworks.FRAMEWORKS.values()])
async def test_a_result_is_what_the_model_is_told_next(
    make: Callable[..., Made], page_of: type[Page], client_of: Callable[..., Any]
):
    made = make(*SCRIPT)
    page = page_of(await client_of(Runner(made.agent, app_name="a")))
    assert await page.say("paint it") == "Which? "
    assert len(page.calls) == 1
    assert await page.bring("ultramarine") == "Thanks."
    assert made.requests()[-1].count("ultramarine") == 1
    assert await page.say("and now?") == "Thanks."
    assert made.requests()[-1].count("ultramarine") == 1
    assert len(page.calls) == 1


@pytest.mark.parametrize("page_of", PAGES)
@pytest.mark.parametrize("make", [frameworks.function, *frameworks.FRAMEWORKS.values()])
async def test_one_that_never_comes_stands_in_nobodys_way(
    make: Callable[..., Made], page_of: type[Page], client_of: Callable[..., Any]
):
    made = make(*SCRIPT)
    page = page_of(await client_of(Runner(made.agent, app_name="a")))
    await page.say("paint it")
    assert await page.say("leave it") == "Thanks."
    assert await page.say("and now?") == "Thanks."
    assert made.requests()[-1].count("leave it") == 1
