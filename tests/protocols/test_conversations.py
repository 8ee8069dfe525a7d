"""Conversations that people have, over every family of clients and both frameworks: what the model is told in the end
is what was said, whoever holds the history."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from agents import Agent as SDKAgent
from agents import function_tool
from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.tools import FunctionTool
from google.genai import types
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool, ToolException
from pydantic import PrivateAttr
from pydantic_ai import Agent
from pydantic_ai import messages as m
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from gapless import Runner
from gapless.agents.conversation import INTERRUPTED
from gapless.events import RunErrorEvent, decode_event
from gapless.fold import Fold
from gapless.records import RunStatus
from gapless.testing import Gate, ToolCall
from gapless.testing.langgraph import LangGraphModel
from gapless.testing.openai_agents import OpenAIAgentsModel
from tests.support.sse import frames
from tests.support.ways import through_the_graph

PNG = "iVBORw0KGgo="
TOOLS = ("weather", "broken", "pay")
Seen = list[list[tuple[str, str]]]
"""Of each request of the model, who said what; a picture is "[image/png]"."""


def answer(told: list[tuple[str, str]], number: int) -> tuple[str, str | None]:
    """What the model says to what it is told: a text, and the tool that it calls."""
    who, what = told[-1]
    if who == "result":
        return f"So {what}.", None
    return ("Let me. ", what) if what in TOOLS else (f"{what}, {number}.", None)


def add(told: list[tuple[str, str]], who: str, what: str) -> None:
    what = " ".join(what.removesuffix(INTERRUPTED).split())  # a wire of one text has paragraphs
    if told and told[-1][0] == who and who in ("user", "text"):
        told[-1] = (who, f"{told[-1][1]} {what}".strip())
    elif what or who not in ("user", "text"):
        told.append((who, what))


# -- the two frameworks ------------------------------------------------------------------------------------------------


def with_pydantic_ai(slow: Gate) -> tuple[Any, Seen]:
    seen: Seen = []

    async def model(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        told: list[tuple[str, str]] = []
        for part in [part for one in messages for part in one.parts]:
            if isinstance(part, m.UserPromptPart):
                for piece in [part.content] if isinstance(part.content, str) else part.content:
                    add(told, "user", piece if isinstance(piece, str) else f"[{piece.media_type}]")  # type: ignore[union-attr]
            elif isinstance(part, m.TextPart):
                add(told, "text", part.content)
            elif isinstance(part, m.ToolCallPart):
                add(told, "call", part.tool_name)
            elif isinstance(part, m.ToolReturnPart):
                add(told, "result", "yes" if part.outcome == "success" else "no")
        seen.append(told)
        text, tool = answer(told, len(seen))
        yield text[:4]
        if text.startswith("slow"):
            await slow.pass_through()
        yield text[4:]
        if tool is not None:
            yield {1: DeltaToolCall(name=tool, json_args="{}", tool_call_id=f"c{len(seen)}")}

    agent = Agent(FunctionModel(stream_function=model))

    @agent.tool_plain
    def weather() -> str:
        return "sunny"

    @agent.tool_plain
    def broken() -> str:
        raise ToolFailed("It is broken.")

    @agent.tool_plain(requires_approval=True)
    def pay() -> str:
        return "paid"

    return agent, seen


class Model(BaseLlm):
    model: str = "m"
    _seen: Seen = PrivateAttr(default_factory=list)
    _slow: Gate = PrivateAttr(default_factory=Gate)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        told: list[tuple[str, str]] = []
        for content in llm_request.contents:
            for part in content.parts or []:
                if part.function_call is not None:
                    add(told, "call", part.function_call.name or "")
                elif part.function_response is not None:
                    add(told, "result", "no" if "error" in (part.function_response.response or {}) else "yes")
                elif part.inline_data is not None:
                    add(told, "user", f"[{part.inline_data.mime_type}]")
                elif part.text:
                    add(told, "user" if content.role == "user" else "text", part.text)
        self._seen.append(told)
        text, tool = answer(told, len(self._seen))
        for piece in (text[:4], text[4:]):
            yield LlmResponse(content=types.Content(role="model", parts=[types.Part(text=piece)]), partial=True)
            if text.startswith("slow"):
                await self._slow.pass_through()
        parts = [types.Part(text=text)]
        if tool is not None:
            parts.append(types.Part(function_call=types.FunctionCall(name=tool, args={}, id=f"c{len(self._seen)}")))
        yield LlmResponse(content=types.Content(role="model", parts=parts))


def with_adk(slow: Gate) -> tuple[Any, Seen]:
    def weather() -> str:
        """The weather."""
        return "sunny"

    def broken() -> dict[str, str]:
        """Is broken."""
        return {"error": "It is broken."}

    def pay() -> str:
        """Pays."""
        return "paid"

    model = Model()
    model._slow = slow
    tools: list[Any] = [weather, broken, FunctionTool(pay, require_confirmation=True)]
    return LlmAgent(name="a", model=model, tools=tools), model._seen


def scripted(told: list[tuple[str, str]], seen: Seen, slow: Gate) -> list[Any]:
    """What a scripted model of ours says."""
    seen.append(told)
    text, tool = answer(told, len(seen))
    return [
        text[:4],
        *([slow] if text.startswith("slow") else []),
        text[4:],
        *([] if tool is None else [ToolCall(tool)]),
    ]


class GraphModel(LangGraphModel):
    _seen: Seen = PrivateAttr(default_factory=list)
    _slow: Gate = PrivateAttr(default_factory=Gate)

    def _response(self, messages: list[BaseMessage]) -> list[Any]:
        told: list[tuple[str, str]] = []
        for message in messages:
            if isinstance(message, ToolMessage):
                add(told, "result", "yes" if message.status == "success" else "no")
                continue
            who = "user" if isinstance(message, HumanMessage) else "text"
            for block in [message.content] if isinstance(message.content, str) else message.content:
                text = block if isinstance(block, str) else block.get("text") or f"[{block['mime_type']}]"
                add(told, who, text)
            if isinstance(message, AIMessage):
                for call in message.tool_calls:
                    add(told, "call", call["name"])
        return scripted(told, self._seen, self._slow)


def weather() -> str:
    """The weather."""
    return "sunny"


def broken() -> str:
    """Is broken."""
    raise ToolException("It is broken.")


def pay() -> str:
    """Pays."""
    return "paid"


def with_langgraph(slow: Gate) -> tuple[Any, Seen]:
    model = GraphModel([])  # type: ignore[call-arg]  # pydantic's own, to a type checker
    model._slow = slow
    tools = [StructuredTool.from_function(one, handle_tool_error=True) for one in (weather, broken, pay)]
    asking = HumanInTheLoopMiddleware(interrupt_on={"pay": True})
    return create_agent(model, tools=tools, middleware=[asking]), model._seen


class SDKModel(OpenAIAgentsModel):
    seen: Seen
    slow: Gate

    def _response(self, given: Any) -> list[Any]:
        told: list[tuple[str, str]] = []
        for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
            if item.get("type") == "function_call":
                add(told, "call", item["name"])
            elif item.get("type") == "function_call_output":
                add(told, "result", "yes" if item["output"] in ("sunny", "paid") else "no")
            elif "role" in item:
                content = item["content"]
                for part in [content] if isinstance(content, str) else content:
                    text = part if isinstance(part, str) else part.get("text") or "[image/png]"
                    add(told, "user" if item["role"] == "user" else "text", text)
        return scripted(told, self.seen, self.slow)


def with_openai_agents(slow: Gate) -> tuple[Any, Seen]:
    model = SDKModel([])
    model.seen, model.slow = [], slow
    tools: list[Any] = [function_tool(weather), function_tool(broken), function_tool(pay, needs_approval=True)]
    return SDKAgent(name="a", model=model, tools=tools), model.seen


# -- the families of clients -------------------------------------------------------------------------------------------


class Talk:
    """One conversation, as a client of a family has it. `own` are the calls that it is told of."""

    calls = True
    media = True
    goes_back = True

    def __init__(self, client: Any, runner: Runner) -> None:
        self.client = client
        self.runner = runner
        self.number = 0

    async def say(self, text: str, picture: bool = False) -> None:
        """Send a message, and take the answer: as far as it goes where the run waits for a person."""
        raise NotImplementedError

    async def again(self) -> None:
        """Ask the last message again."""
        raise NotImplementedError

    async def edit(self, text: str) -> None:
        """Put another message in the place of the last."""
        raise NotImplementedError

    async def decide(self, approved: bool) -> None:
        """Answer what the run waits for; by the route that every client can use."""
        run = await self.newest()
        page = (await self.client.get(f"/runs/{run}/events", headers={"accept": "application/json"})).json()
        asked = page["events"][-1]["outcome"]["interrupts"]
        resume = [{"interruptId": q["id"], "status": "resolved", "payload": {"approved": approved}} for q in asked]
        assert (await self.client.post(f"/runs/{run}/input", json={"resume": resume})).status_code == 202
        await (await self.runner.attach(run)).wait()

    async def newest(self) -> str:
        return (await self.runner.list_runs(limit=1))[0].id

    async def post(self, path: str, body: Any, **headers: str) -> bytes:
        response = await self.client.post(path, json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response.content  # type: ignore[no-any-return]  # bytes


def data(body: bytes) -> list[Any]:
    return [json.loads(one.data) for one in frames(body) if one.data.startswith("{")]


class OwnRoutes(Talk):
    """`/runs`, with a session."""

    def content(self, text: str, picture: bool) -> Any:
        source = {"type": "data", "value": PNG, "mimeType": "image/png"}
        return [{"type": "text", "text": text}, {"type": "image", "source": source}] if picture else text

    async def say(self, text: str, picture: bool = False, **more: Any) -> None:
        body = {"message": self.content(text, picture), "session_id": "s", **more}
        run = (await self.client.post("/runs", json=body)).json()["id"]
        await self.runner.readers.settled(await self.runner.get_run(run))

    async def again(self) -> None:
        runs = await self.runner.list_runs(limit=2)
        await self.say(runs[0].message, after_run_id=runs[1].id)

    async def edit(self, text: str) -> None:
        runs = await self.runner.list_runs(limit=2)
        await self.say(text, after_run_id=runs[1].id)


class Text(Talk):
    """`/chat/stream`, with a session."""

    media = goes_back = False

    async def say(self, text: str, picture: bool = False) -> None:
        await until_settled(self.runner, self.post("/chat/stream", {"query": text, "session_id": "s"}))


async def until_settled(runner: Runner, request: Any) -> Any:
    """Send a request whose stream stays open while a person is asked; return what it comes to, or what will be it."""
    before = {run.id for run in await runner.list_runs()}
    asking = asyncio.ensure_future(request)
    while not asking.done():
        for run in await runner.list_runs(limit=1):
            if run.id not in before and run.status is RunStatus.WAITING:
                return asking
        await asyncio.sleep(0.001)
    return asking.result()


class AGUI(Talk):
    """A client that holds the messages, as `HttpAgent` does."""

    def __init__(self, client: Any, runner: Runner) -> None:
        super().__init__(client, runner)
        self.messages: list[Any] = []

    async def say(self, text: str, picture: bool = False) -> None:
        self.number += 1
        content = OwnRoutes.content(self, text, picture)  # type: ignore[arg-type]  # takes nothing of it
        self.messages.append({"id": f"u{self.number}", "role": "user", "content": content})
        await self.send()

    async def send(self, **more: Any) -> None:
        self.number += 1
        body = {"threadId": "s", "runId": f"r{self.number}", "messages": self.messages, **more}
        fold = Fold()
        for frame in frames(await self.post("/ag-ui", body)):
            if frame.data:
                event = decode_event(frame.data)
                assert not isinstance(event, RunErrorEvent), event
                fold.add(event)
        known = [message["id"] for message in self.messages]
        for message in msgspec.to_builtins(fold.messages()):
            if message["id"] not in known:
                self.messages.append({key: value for key, value in message.items() if key != "metadata"})

    async def again(self) -> None:
        while self.messages[-1]["role"] != "user":
            self.messages.pop()
        await self.send()

    async def edit(self, text: str) -> None:
        while self.messages.pop()["role"] != "user":
            pass
        await self.say(text)

    async def decide(self, approved: bool) -> None:
        asked = (await self.client.get("/ag-ui?threadId=s")).json()["interrupts"]["pending"]
        payload = {"approved": approved}
        await self.send(resume=[{"interruptId": q["id"], "status": "resolved", "payload": payload} for q in asked])


class AISDK(Talk):
    """A page that sends its last message alone, or all that it has; and loads what there is before."""

    whole = True

    async def load(self) -> list[Any]:
        return (await self.client.get("/vercel/chat/s/messages")).json()["messages"]  # type: ignore[no-any-return]

    async def send(self, messages: list[Any], **more: Any) -> None:
        await self.post("/vercel/chat", {"id": "s", "messages": messages if self.whole else messages[-1:], **more})

    def message(self, text: str, picture: bool = False) -> Any:
        self.number += 1
        parts: list[Any] = [{"type": "text", "text": text}]
        if picture:
            parts.append({"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{PNG}"})
        return {"id": f"u{self.number}", "role": "user", "parts": parts}

    async def say(self, text: str, picture: bool = False) -> None:
        await self.send([*await self.load(), self.message(text, picture)])

    async def again(self) -> None:
        *before, dropped = await self.load()
        await self.send(before, trigger="regenerate-message", messageId=dropped["id"])

    async def edit(self, text: str) -> None:
        *before, asked, _ = await self.load()
        await self.send([*before, {**self.message(text), "id": asked["id"]}], messageId=asked["id"])

    async def decide(self, approved: bool) -> None:
        messages = await self.load()
        for part in messages[-1]["parts"]:
            if part.get("state") == "approval-requested":
                part |= {"state": "approval-responded", "approval": {**part["approval"], "approved": approved}}
        await self.send(messages)


class AISDKLast(AISDK):
    whole = False


class Chat(Talk):
    """Chat completions: the client holds texts, and is not told of the agent's own calls."""

    calls = False

    def __init__(self, client: Any, runner: Runner) -> None:
        super().__init__(client, runner)
        self.messages: list[Any] = []

    async def say(self, text: str, picture: bool = False) -> None:
        url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        content = [{"type": "text", "text": text}, url] if picture else text
        self.messages.append({"role": "user", "content": content})
        await self.send()

    async def send(self) -> None:
        body = {"model": "a", "messages": self.messages, "stream": True}
        self.take(await until_settled(self.runner, self.post("/v1/chat/completions", body)))

    def take(self, answer: Any) -> None:
        self.asking = answer
        if isinstance(answer, bytes):
            deltas = [one["choices"][0]["delta"] for one in data(answer) if one.get("choices")]
            text = "".join(delta.get("content") or "" for delta in deltas)
            self.messages.append({"role": "assistant", "content": text})

    async def decide(self, approved: bool) -> None:
        await super().decide(approved)
        self.take(await self.asking)

    async def again(self) -> None:
        self.messages.pop()
        await self.send()

    async def edit(self, text: str) -> None:
        del self.messages[-2:]
        await self.say(text)


class Responses(Talk):
    """Responses that go on from one another."""

    def __init__(self, client: Any, runner: Runner) -> None:
        super().__init__(client, runner)
        self.line: list[str] = []
        self.said: list[str] = []

    async def say(self, text: str, picture: bool = False) -> None:
        parts: list[Any] = [{"type": "input_text", "text": text}]
        if picture:
            parts.append({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"})
        body = {"model": "a", "input": [{"role": "user", "content": parts}], "stream": True}
        if self.line:
            body["previous_response_id"] = self.line[-1]
        await until_settled(self.runner, self.post("/v1/responses", body))
        self.line.append(f"resp_{await self.newest()}")
        self.said.append(text)

    async def again(self) -> None:
        self.line.pop()
        await self.say(self.said.pop())

    async def edit(self, text: str) -> None:
        self.line.pop()
        await self.say(text)


class Conversation(Responses):
    """Responses of a conversation that the server keeps."""

    goes_back = False

    async def say(self, text: str, picture: bool = False) -> None:
        body = {"model": "a", "input": text, "conversation": "s", "stream": True}
        if picture:
            url = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
            body["input"] = [{"role": "user", "content": [{"type": "input_text", "text": text}, url]}]
        await until_settled(self.runner, self.post("/v1/responses", body))


class ADK(Talk):
    """ADK's own routes."""

    goes_back = False

    def __init__(self, client: Any, runner: Runner) -> None:
        super().__init__(client, runner)
        self.asked: list[str] = []

    async def say(self, text: str, picture: bool = False) -> None:
        parts: list[Any] = [{"text": text}]
        if picture:
            parts.append({"inlineData": {"data": PNG, "mimeType": "image/png"}})
        await self.send(*parts)

    async def send(self, *parts: Any) -> None:
        await self.client.post("/apps/a/users/u/sessions/s", json={})
        message = {"role": "user", "parts": [*parts]}
        body = {"appName": "a", "userId": "u", "sessionId": "s", "newMessage": message, "streaming": True}
        events = data(await self.post("/run_sse", body))
        told = [part for event in events for part in (event.get("content") or {}).get("parts", ())]
        calls = [part["functionCall"] for part in told if "functionCall" in part]
        self.asked = [one["id"] for one in calls if one["name"] == "adk_request_confirmation"]

    async def decide(self, approved: bool) -> None:
        response = {"name": "adk_request_confirmation", "response": {"confirmed": approved}}
        await self.send(*({"functionResponse": {"id": id, **response}} for id in self.asked))


TALKS = (OwnRoutes, Text, AGUI, AISDK, AISDKLast, Chat, Responses, Conversation, ADK)


# -- what is said ------------------------------------------------------------------------------------------------------


async def stop(talk: Talk, slow: Gate) -> None:
    """Ask what takes long, and stop it."""
    asking = asyncio.ensure_future(talk.say("slow"))
    await slow.reached()
    await talk.runner.cancel(await talk.newest())
    await asking


async def tools(talk: Talk, slow: Gate) -> None:
    await talk.say("weather")
    await talk.say("hm")


async def failed_tool(talk: Talk, slow: Gate) -> None:
    await talk.say("broken")
    await talk.say("hm")


async def agreed(talk: Talk, slow: Gate) -> None:
    await talk.say("pay")
    await talk.decide(True)
    await talk.say("hm")


async def declined(talk: Talk, slow: Gate) -> None:
    await talk.say("pay")
    await talk.decide(False)
    await talk.say("hm")


async def typed_instead(talk: Talk, slow: Gate) -> None:
    await talk.say("pay")
    await talk.say("hm")


async def picture(talk: Talk, slow: Gate) -> None:
    await talk.say("see", picture=True)
    await talk.say("hm")


async def stopped(talk: Talk, slow: Gate) -> None:
    await stop(talk, slow)
    await talk.say("hm")


async def regenerated(talk: Talk, slow: Gate) -> None:
    for text in ("one", "two"):
        await talk.say(text)
    await talk.again()
    await talk.say("hm")


async def edited(talk: Talk, slow: Gate) -> None:
    for text in ("one", "two"):
        await talk.say(text)
    await talk.edit("other")
    await talk.say("hm")


def called(tool: str, given: str) -> list[tuple[str, str]]:
    return [("user", tool), ("text", "Let me."), ("call", tool), ("result", given), ("text", f"So {given}."), HM]


HM = ("user", "hm")
CONVERSATIONS: dict[Callable[..., Any], list[tuple[str, str]]] = {
    tools: called("weather", "yes"),
    failed_tool: called("broken", "no"),
    agreed: called("pay", "yes"),
    declined: called("pay", "no"),
    typed_instead: called("pay", "no"),
    picture: [("user", "see [image/png]"), ("text", "see [image/png], 1."), HM],
    stopped: [("user", "slow"), ("text", "slow"), HM],
    regenerated: [("user", "one"), ("text", "one, 1."), ("user", "two"), ("text", "two, 3."), HM],
    edited: [("user", "one"), ("text", "one, 1."), ("user", "other"), ("text", "other, 3."), HM],
}


WHO_HOLDS = (OwnRoutes, AGUI, Chat, Responses)
"""One for each way of holding a history: what the families' clients send does not depend on the framework."""
MAKERS: dict[Callable[[Gate], tuple[Any, Seen]], tuple[type[Talk], ...]] = {
    with_pydantic_ai: TALKS,
    with_adk: TALKS,
    with_langgraph: WHO_HOLDS,
    with_openai_agents: WHO_HOLDS,
}


def watched(make: Callable[[Gate], tuple[Any, Seen]]) -> Callable[[Gate], tuple[Any, Seen]]:
    """The same agent, as if something in its framework's graph watched the deltas."""

    @functools.wraps(make)
    def made(slow: Gate) -> tuple[Any, Seen]:
        return make(slow)

    made.__name__ += "-watched"
    return made


WATCHED = {watched(make): WHO_HOLDS for make in (with_pydantic_ai, with_adk)}


def cases() -> list[Any]:
    return [
        pytest.param(conversation, talk, make, id=f"{conversation.__name__}-{talk.__name__}-{make.__name__}")
        for conversation in CONVERSATIONS
        for make, talks in (MAKERS | WATCHED).items()
        for talk in talks
        if (talk.media or conversation is not picture)
        and (talk.goes_back or conversation not in (regenerated, edited))
        and not (conversation is typed_instead and talk in (Chat, Responses))
    ]


@pytest.mark.parametrize(("conversation", "kind", "make"), cases())
async def test_the_model_is_told_what_was_said(
    conversation: Any, kind: type[Talk], make: Any, client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    if make in WATCHED:
        through_the_graph(monkeypatch)
    slow = Gate()
    agent, seen = make(slow)
    runner = Runner(agent, app_name="a")
    talk = kind(await client_of(runner), runner)
    await conversation(talk, slow)
    expected: list[tuple[str, str]] = []
    for who, what in CONVERSATIONS[conversation]:
        if talk.calls or who not in ("call", "result"):
            add(expected, who, what)
    assert seen[-1] == expected
