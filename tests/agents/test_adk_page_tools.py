"""Tools of the page, which the client runs, with ADK agents on the real Gemini model: what the next call is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.sessions import InMemorySessionService
from google.adk.tools import AgentTool

from gapless import Runner
from tests.support.gemini import SIGNATURE, GeminiService, call, shown, signatures
from tests.support.sse import frames

pytestmark = pytest.mark.both_ways

TOOLS = [
    {"name": name, "description": name, "parameters": {"type": "object", "properties": {}}}
    for name in ("color", "size")
]


def reply(contents: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    last = contents[-1]["parts"]
    if any("functionResponse" in part for part in last):
        return [[{"text": "Done."}]]
    said = last[-1].get("text", "")
    calls = [call("color")] if "color" in said else []
    calls += [call("size", None if calls else SIGNATURE)] if "size" in said else []
    calls += [call("stock", None)] if "stock" in said else []
    return [[{"text": "Let me see. "}], calls] if calls else [[{"text": "As you like."}]]


class Page:
    """An AG-UI client: it holds the messages, each call that names no parent in a message of its own."""

    def __init__(self, client: Any, thread: str = "t", keeps_signatures: bool = True) -> None:
        self.client = client
        self.thread = thread
        self.held: list[dict[str, Any]] = []
        self.keeps_signatures = keeps_signatures
        self.runs = 0

    async def ask(self, text: str | None = None, **results: str) -> dict[str, Any]:
        """Sends a message, or results by the names of their calls; the last event."""
        calls = {one["function"]["name"]: one["id"] for message in self.held for one in message.get("toolCalls", ())}
        for name, content in results.items():
            self.held.append(
                {"id": f"r{len(self.held)}", "role": "tool", "toolCallId": calls[name], "content": content}
            )
        if text is not None:
            self.held.append({"id": f"u{len(self.held)}", "role": "user", "content": text})
        self.runs += 1
        body = {"threadId": self.thread, "runId": f"{self.thread}{self.runs}", "messages": self.held, "tools": TOOLS}
        answer = await self.client.post("/ag-ui", json=body | {"state": {}, "context": [], "forwardedProps": {}})
        assert answer.status_code == 200, answer.text
        last: dict[str, Any] = {}
        texts: dict[str, dict[str, Any]] = {}
        for last in [json.loads(frame.data) for frame in frames(answer.content) if frame.data]:
            match last["type"]:
                case "TEXT_MESSAGE_START":
                    texts[last["messageId"]] = {"id": last["messageId"], "role": "assistant", "content": ""}
                    self.held.append(texts[last["messageId"]])
                case "TEXT_MESSAGE_CONTENT":
                    texts[last["messageId"]]["content"] += last["delta"]
                case "TOOL_CALL_START":
                    function = {"name": last["toolCallName"], "arguments": "{}"}
                    made = {"id": last["toolCallId"], "type": "function", "function": function}
                    self.held.append({"id": last["toolCallId"], "role": "assistant", "toolCalls": [made]})
                case "TOOL_CALL_RESULT":
                    of = {"toolCallId": last["toolCallId"], "content": last["content"]}
                    self.held.append({"id": last["messageId"], "role": "tool", **of})
                case "REASONING_ENCRYPTED_VALUE" if self.keeps_signatures:
                    for message in self.held:
                        for made in message.get("toolCalls", ()):
                            if made["id"] == last["entityId"]:
                                made["encryptedValue"] = last["encryptedValue"]
        return last


def stock() -> dict[str, int]:
    """How many there are."""
    return {"stock": 3}


@pytest.fixture
async def page_on(client_of: Callable[..., Any]) -> Any:
    """`await page_on(own)`: a page, and the service that its agent's model asks."""
    service = GeminiService(reply)
    async with service.serving() as model:

        async def make(own: bool = False, **options: Any) -> tuple[Page, GeminiService]:
            agent = LlmAgent(name="root", model=model, tools=[stock])
            sessions = {"session_service": InMemorySessionService()} if own else {}
            return Page(await client_of(Runner(agent, **sessions)), **options), service

        yield make


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("asked", ["color", "color and size", "color, size, stock"])
async def test_the_results_belong_to_the_turn_and_to_the_session(page_on: Any, own: bool, asked: str):
    page, service = await page_on(own)
    results = {name: "red" for name in ("color", "size") if name in asked}
    await page.ask(asked)
    assert len(service.requests) == 1, "it is the page's turn"
    assert (await page.ask(**results))["type"] == "RUN_FINISHED"
    told = [asked, "Let me see. ", *(f"{name}()" for name in results)]
    told += ["stock()"] * ("stock" in asked)
    given = [{"stock": 3}] * ("stock" in asked) + [{"result": "red"}] * len(results)
    assert shown(service.requests[1]["contents"]) == [*told, *given]
    assert signatures(service.requests[1]["contents"])[0] == SIGNATURE
    await page.ask("thanks")
    assert shown(service.requests[2]["contents"]) == [*told, *given, "Done.", "thanks"]


@pytest.mark.parametrize("own", [False, True])
async def test_a_call_that_the_page_does_not_answer_stands_in_nobodys_way(page_on: Any, own: bool):
    page, service = await page_on(own)
    await page.ask("color and size")
    for number in (1, 2):
        assert (await page.ask("never mind"))["type"] == "RUN_FINISHED", number
    started = await page.client.post("/runs", json={"message": "and now?", "session_id": "t", "run_id": "other"})
    assert started.status_code == 202
    while (await page.client.get("/runs/other")).json()["status"] != "finished":
        await asyncio.sleep(0.01)
    told = shown(service.requests[-1]["contents"])
    assert [one for one in told if isinstance(one, dict)] == [
        {"error": "There is no result: the user went on without one."}
    ] * 2
    assert told[-1] == "and now?"


@pytest.mark.parametrize("own", [False, True])
async def test_results_that_come_one_by_one_late_or_with_a_message(page_on: Any, own: bool):
    page, service = await page_on(own)
    await page.ask("color and size")
    assert (await page.ask(color="red"))["type"] == "RUN_FINISHED"
    assert (await page.ask("so?", size="large"))["type"] == "RUN_FINISHED"
    told = shown(service.requests[-1]["contents"])
    assert [one for one in told if isinstance(one, dict)] == [{"result": "red"}, {"result": "large"}]
    assert told[-1] == "so?"
    await page.ask("and then?")
    assert shown(service.requests[-1]["contents"])[: len(told)] == told


@pytest.mark.parametrize("keeps", [True, False])
async def test_where_the_server_has_no_such_session_the_clients_history_counts(page_on: Any, keeps: bool):
    page, service = await page_on(keeps_signatures=keeps)
    await page.ask("color and size")
    page.thread = "elsewhere"
    assert (await page.ask(color="red", size="large"))["type"] == "RUN_FINISHED"
    assert shown(service.requests[-1]["contents"])[2:4] == ["color()", "size()"]
    assert (signatures(service.requests[-1]["contents"])[0] == SIGNATURE) is keeps
    assert (await page.ask("thanks"))["type"] == "RUN_FINISHED"
    assert shown(service.requests[-1]["contents"])[4:6] == [{"result": "red"}, {"result": "large"}]


async def test_an_agent_that_a_tool_runs_is_not_offered_the_pages_tools(client_of: Callable[..., Any]):
    def answer(contents: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        last = contents[-1]["parts"][-1]
        return [[call("inner", request="go")]] if last.get("text") == "hi" else [[{"text": "So."}]]

    service = GeminiService(answer)
    async with service.serving() as model:
        inner = LlmAgent(name="inner", model=model)
        page = Page(await client_of(Runner(LlmAgent(name="root", model=model, tools=[AgentTool(inner)]))))
        last = await page.ask("hi")
    offered = [
        {one["name"] for tool in request.get("tools", ()) for one in tool["functionDeclarations"]}
        for request in service.requests
    ]
    assert offered == [{"inner", "color", "size"}, set(), {"inner", "color", "size"}]
    assert last["usage"][0]["totalTokens"] == 45, "what the inner agent took is counted"


@pytest.mark.parametrize("own", [False, True])
async def test_a_question_that_is_edited_under_a_new_id_takes_the_place_of_the_old_one(page_on: Any, own: bool):
    page, service = await page_on(own)
    for text in ("first", "second", "third"):
        await page.ask(text)
    del page.held[2:]
    await page.ask("second, edited")
    assert shown(service.requests[-1]["contents"]) == ["first", "As you like.", "second, edited"]
    loaded = (await page.client.get("/ag-ui", params={"threadId": "t"})).json()["messages"]
    texts = [part["content"] for message in loaded for part in message["parts"]]
    assert texts == ["first", "As you like.", "second, edited", "As you like."]
    await page.ask("fourth")
    assert shown(service.requests[-1]["contents"])[2:] == ["second, edited", "As you like.", "fourth"]
    chat = (await page.client.get("/vercel/chat/t/messages")).json()["messages"]
    assert [message["parts"][0]["text"] for message in chat if message["role"] == "user"] == [
        "first",
        "second, edited",
        "fourth",
    ]
