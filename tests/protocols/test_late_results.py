"""Results of a page's tools that come after the model has gone on: each call has one, behind the answer that made it,
on services that refuse anything else. With every framework's own model classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent as SDKAgent
from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from openai import AsyncOpenAI

from gapless import Runner
from gapless.agents.langgraph_middleware import GaplessMiddleware
from gapless.journals.memory import MemoryStore
from tests.support.model_classes import CLASSES
from tests.support.services import (
    ANTHROPIC,
    CHAT,
    RESPONSES,
    Protocol,
    Service,
    call,
    chat,
    claude,
    function_item,
    responses,
    service,
    tool_use,
)
from tests.support.sse import frames

SCHEMA = {"type": "object", "properties": {}}
TOOLS = [{"name": name, "description": name, "parameters": SCHEMA} for name in ("one", "two", "three")]


def openai(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)


def graph(url: str, create: Callable[..., Any] = create_agent, **options: Any) -> Any:
    model: Any = ChatOpenAI(model="m", base_url=f"{url}/v1", api_key="k", max_retries=0)  # type: ignore[arg-type]
    return create(model, [], system_prompt="Help.", middleware=[GaplessMiddleware()], name="helper", **options)


def deep(url: str) -> Any:
    """One whose thread is kept whole, not turn by turn."""
    deepagents = pytest.importorskip("deepagents", reason="it is not installed: scripts/test brings it")
    return graph(url, deepagents.create_deep_agent)


AGENTS: dict[str, tuple[Protocol, Callable[[str], Any]]] = {
    **{
        name: (CLASSES[name].protocol, CLASSES[name].agent)
        for name in ("pydantic-ai chat", "pydantic-ai anthropic", "pydantic-ai responses", "adk litellm")
    },
    "langgraph": (CHAT, graph),
    "langgraph checkpointer": (CHAT, lambda url: graph(url, checkpointer=InMemorySaver())),
    "deepagents": (CHAT, deep),
    "agents sdk chat": (CHAT, lambda url: SDKAgent(name="helper", model=OpenAIChatCompletionsModel("m", openai(url)))),
    "agents sdk responses": (
        RESPONSES,
        lambda url: SDKAgent(name="helper", model=OpenAIResponsesModel("m", openai(url))),
    ),
}


def calling(protocol: Protocol, *names: str) -> list[Any]:
    """An answer that calls these tools."""
    if protocol is ANTHROPIC:
        return claude(*(tool_use(f"c_{name}", name, "{}") for name in names), stop="tool_use")
    if protocol is RESPONSES:
        return responses(*(function_item(at, f"c_{name}", name, "{}") for at, name in enumerate(names)))
    calls = [call(at, f"c_{name}", name, "{}") for at, name in enumerate(names)]
    return [*calls, chat("tool_calls"), "data: [DONE]\n\n"]


def results(up: Service) -> dict[str, str]:
    """What the model was told last of its calls' results, by the tool; those that stand for none say "no"."""
    items = up.asked[-1].get("messages") or up.asked[-1]["input"]
    blocks = [block for item in items if isinstance(item.get("content"), list) for block in item["content"]]
    told: list[tuple[str, Any]] = [
        *((item["tool_call_id"], item["content"]) for item in items if item.get("role") == "tool"),
        *((item["call_id"], item["output"]) for item in items if item.get("type") == "function_call_output"),
        *((block["tool_use_id"], block["content"]) for block in blocks if block.get("type") == "tool_result"),
    ]
    assert len(dict(told)) == len(told), "each has one"
    found = {}
    for id, content in told:
        text = json.dumps(content)
        found[id.removeprefix("c_")] = next((word for word in ("red", "blue", "green", "gold") if word in text), "no")
    return found


class Page:
    """A client of the responses API."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.ids: list[str] = []

    async def ask(self, text: str | None = None, after: int = -1, **brought: str) -> None:
        """Send results by the names of their tools, a message, or both; `after` which response."""
        items: list[Any] = [
            {"type": "function_call_output", "call_id": f"c_{name.rstrip('_')}", "output": content}
            for name, content in brought.items()
        ]
        items += [] if text is None else [{"role": "user", "content": text}]
        body: dict[str, Any] = {"model": "helper", "input": items, "tools": [{"type": "function", **t} for t in TOOLS]}
        if self.ids:
            body["previous_response_id"] = self.ids[after]
        answer = await self.client.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "completed", answer.text
        self.ids.append(answer.json()["id"])


NO = "no"
TALKS: dict[str, list[tuple[dict[str, Any], dict[str, str]]]] = {
    "one by one": [
        ({"one": "red"}, {"one": "red", "two": NO}),
        ({"two": "blue"}, {"one": "red", "two": "blue"}),
        ({"text": "and?"}, {"one": "red", "two": "blue"}),
    ],
    "the other way round": [
        ({"two": "blue"}, {"one": NO, "two": "blue"}),
        ({"one": "red"}, {"one": "red", "two": "blue"}),
        ({"text": "and?"}, {"one": "red", "two": "blue"}),
    ],
    "with a message": [
        ({"one": "red"}, {"one": "red", "two": NO}),
        ({"two": "blue", "text": "so?"}, {"one": "red", "two": "blue"}),
        ({"text": "and?"}, {"one": "red", "two": "blue"}),
    ],
    "after a message": [
        ({"text": "never mind"}, {"one": NO, "two": NO}),
        ({"two": "blue"}, {"one": NO, "two": "blue"}),
        ({"one": "red"}, {"one": "red", "two": "blue"}),
        ({"text": "and?"}, {"one": "red", "two": "blue"}),
    ],
    "twice, and then another": [
        ({"one": "red"}, {"one": "red", "two": NO}),
        ({"two": "blue"}, {"one": "red", "two": "blue"}),
        ({"two": "blue"}, {"one": "red", "two": "blue"}),
        ({"two": "gold"}, {"one": "red", "two": "blue"}),
        ({"text": "and?", "one": "gold"}, {"one": "red", "two": "blue"}),
    ],
}


@pytest.mark.parametrize(
    ("name", "talk"),
    [(name, talk) for name in AGENTS for talk in TALKS if "adk" not in name or "another" not in talk],
)  # ADK takes the newest of several results
@pytest.mark.parametrize("reloaded", [False, True], ids=["", "reloaded"])
async def test_a_late_result_is_told_where_it_belongs(
    name: str, talk: str, reloaded: bool, client_of: Callable[..., Any]
):
    protocol, make = AGENTS[name]
    store = MemoryStore()
    async with service(protocol, [calling(protocol, "one", "two")]) as up:
        agent = make(up.url)
        page = Page(await client_of(Runner(agent, store=store)))
        await page.ask("go")
        for asked, told in TALKS[talk]:
            if reloaded:
                page.client = await client_of(Runner(agent, store=store))
            await page.ask(**asked)
            shown = results(up)
            assert {key: word for key, word in shown.items() if word != NO} == {
                key: word for key, word in told.items() if word != NO
            }
        assert not up.refused
        assert len(up.asked) == len(TALKS[talk]) + 1, "the model answers each"


@pytest.mark.parametrize("name", AGENTS)
async def test_three_results_may_come_one_by_one(name: str, client_of: Callable[..., Any]):
    protocol, make = AGENTS[name]
    async with service(protocol, [calling(protocol, "one", "two", "three")]) as up:
        page = Page(await client_of(Runner(make(up.url))))
        await page.ask("go")
        await page.ask(one="red")
        await page.ask(three="green")
        await page.ask(two="blue")
        assert results(up) == {"one": "red", "two": "blue", "three": "green"}
        await page.ask("and?")
        assert results(up) == {"one": "red", "two": "blue", "three": "green"}
        assert not up.refused


@pytest.mark.parametrize("name", AGENTS)
async def test_a_call_of_a_later_answer_has_its_result_too(name: str, client_of: Callable[..., Any]):
    protocol, make = AGENTS[name]
    script = [calling(protocol, "one", "two"), calling(protocol, "three")]
    async with service(protocol, script) as up:
        page = Page(await client_of(Runner(make(up.url))))
        await page.ask("go")
        await page.ask(one="red")
        await page.ask(two="blue", three="green")
        if "adk" not in name:  # ADK leaves out what stands between the newest calls and their results, until the next
            assert results(up) == {"one": "red", "two": "blue", "three": "green"}
        await page.ask("and?")
        assert results(up) == {"one": "red", "two": "blue", "three": "green"}
        assert not up.refused


@pytest.mark.parametrize("name", [name for name in AGENTS if "adk" not in name])
async def test_one_that_is_brought_again_from_an_earlier_answer_is_that_answers(
    name: str, client_of: Callable[..., Any]
):
    protocol, make = AGENTS[name]
    async with service(protocol, [calling(protocol, "one", "two")]) as up:
        page = Page(await client_of(Runner(make(up.url))))
        await page.ask("go")
        await page.ask(one="red")
        await page.ask(two="blue")
        await page.ask(after=1, two="green")  # as if the one before had not been sent
        assert results(up) == {"one": "red", "two": "green"}
        await page.ask(after=0, two="gold")
        shown = results(up)
        assert shown["two"] == "gold"
        assert shown.get("one", NO) == NO
        await page.ask("and?")
        assert results(up)["two"] == "gold"
        assert not up.refused


@pytest.mark.parametrize("known", [True, False], ids=["its own history", "the client's"])
@pytest.mark.parametrize("name", AGENTS)
async def test_an_ag_ui_client_may_hold_it_at_the_end_or_at_its_place(
    name: str, known: bool, client_of: Callable[..., Any]
):
    protocol, make = AGENTS[name]
    async with service(protocol, [calling(protocol, "one", "two")] if known else []) as up:
        client = await client_of(Runner(make(up.url)))
        runs = 0

        async def ask(*held: Any) -> None:
            nonlocal runs
            runs += 1
            body = {"threadId": "t", "runId": f"r{runs}", "messages": held, "tools": TOOLS, "state": {}, "context": []}
            answer = await client.post("/ag-ui", json=body)
            last = json.loads([one.data for one in frames(answer.content) if one.data][-1])
            assert last["type"] == "RUN_FINISHED", last

        made = [
            {"id": f"c_{name}", "type": "function", "function": {"name": name, "arguments": "{}"}}
            for name in ("one", "two")
        ]
        user, called = {"id": "u", "role": "user", "content": "go"}, {"id": "a", "role": "assistant", "toolCalls": made}
        one = {"id": "t1", "role": "tool", "toolCallId": "c_one", "content": "red"}
        two = {"id": "t2", "role": "tool", "toolCallId": "c_two", "content": "blue"}
        said = {"id": "b", "role": "assistant", "content": "Done."}
        if known:
            await ask(user)
        await ask(user, called, one)
        await ask(user, called, one, said, two)
        assert results(up) == {"one": "red", "two": "blue"}
        more = [{"id": "d", "role": "assistant", "content": "Done."}, {"id": "v", "role": "user", "content": "and?"}]
        await ask(user, called, one, said, two, *more)
        assert results(up) == {"one": "red", "two": "blue"}
        await ask(user, called, one, two, said, *more)
        assert results(up) == {"one": "red", "two": "blue"}
        assert not up.refused


@pytest.mark.parametrize("name", [name for name in AGENTS if "sdk" not in name])  # which tells one result of each id
async def test_an_id_that_a_service_gives_again_has_a_result_in_each_answer(name: str, client_of: Callable[..., Any]):
    protocol, make = AGENTS[name]
    async with service(protocol, [calling(protocol, "one", "two"), calling(protocol, "one")]) as up:
        page = Page(await client_of(Runner(make(up.url))))
        await page.ask("go")
        await page.ask(one="red")
        await page.ask(one="green")
        await page.ask(two="blue")
        await page.ask("and?")
        assert not up.refused
        told = json.dumps(up.asked[-1])
        assert [word for word in ("red", "green", "blue") if word not in told] == []
