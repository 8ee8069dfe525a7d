"""One text out of a run's messages: two messages are two paragraphs, one after the other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent, ParallelAgent, SequentialAgent

from gapless import Runner
from gapless.agents.base import AgentItem
from gapless.events import (
    CustomEvent,
    Event,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    encode_event,
)
from gapless.fold import CONTINUES, VOID, Fold
from gapless.onetext import OneText, TextSoFar
from gapless.protocols.openai.chat_wire import ChatEncoder
from gapless.protocols.text.wire import TextEncoder
from gapless.records import RunRecord
from gapless.testing import ToolCall, adk_model, words
from gapless.testing.agents import Made
from tests.support.frameworks import FRAMEWORKS
from tests.support.sse import frames

RECORD = RunRecord(id="r", session_id="s", user_id="u", agent="a", message="m", created_at=1)


def start(id: str, role: Any = "assistant") -> Event:
    return TextMessageStartEvent(message_id=id, role=role)


def say(id: str, delta: str) -> Event:
    return TextMessageContentEvent(message_id=id, delta=delta)


def end(id: str) -> Event:
    return TextMessageEndEvent(message_id=id)


TALKS: dict[str, tuple[list[Event], str]] = {
    "one": ([start("a"), say("a", "x"), say("a", "y"), end("a")], "xy"),
    "two": ([start("a"), say("a", "x"), end("a"), start("b"), say("b", "y"), say("b", "z"), end("b")], "x\n\nyz"),
    "one that is empty": ([start("a"), say("a", "x"), end("a"), start("b"), end("b")], "x"),
    "a person's": (
        [start("u", "user"), say("u", "?"), end("u"), start("a"), say("a", "x"), end("a"), start("u", "user")],
        "x",
    ),
    "side by side": (
        [
            *(start("a"), start("b"), say("b", "1"), say("a", "x"), say("b", "2"), say("a", "y"), say("b", "3")),
            *(end("a"), say("b", "4"), end("b")),
        ],
        "1234\n\nxy",
    ),
    "three, of which one goes on": (
        [
            *(start("a"), say("a", "x"), start("b"), say("b", "1"), end("b"), start("c"), say("c", "p"), say("a", "y")),
            *(end("a"), say("c", "q"), end("c")),
        ],
        "xy\n\n1\n\npq",
    ),
}


def void(*messages: str, calls: tuple[str, ...] = (), **cut: int) -> Event:
    return CustomEvent(name=VOID, value={"messageIds": [*messages], "toolCallIds": [*calls], "cut": cut})


def start_again(id: str, continues: str) -> Event:
    return TextMessageStartEvent(message_id=id, role="assistant", metadata={CONTINUES: continues})


LOSSES: dict[str, tuple[list[Event], str, str]] = {
    "cut in a message": (
        [start("a"), say("a", "x "), say("a", "half "), end("a"), void(a=2), start_again("b", "a"), say("b", "y")],
        "x half \n\ny",
        "x y",
    ),
    "nothing that was given out": (
        [start("a"), say("a", "x "), end("a"), void(calls=("c",)), start_again("b", "a"), say("b", "y")],
        "x y",
        "x y",
    ),
    "a whole message": (
        [
            start("a"),
            say("a", "x"),
            end("a"),
            start("b"),
            say("b", "half"),
            end("b"),
            void("b"),
            start("c"),
            say("c", "y"),
        ],
        "x\n\nhalf\n\ny",
        "x\n\ny",
    ),
    "one that waits for another's end": (
        [start("a"), say("a", "x"), start("b"), say("b", "1 half"), end("b"), void(b=2), say("a", "y"), end("a")],
        "xy\n\n1 ",
        "xy\n\n1 ",
    ),
}
"""Events, what is given out of them in pieces, and the text that stands."""


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_taken_back_stays_in_pieces_and_is_followed_by_a_paragraph(name: str):
    events, pieces, text = LOSSES[name]
    one, so_far, fold = OneText(), TextSoFar(), Fold()
    assert "".join(map(one.add, events)) == pieces
    for event in events:
        so_far.add(event)
        fold.add(event)
    assert so_far.text == fold.text == text
    chat = ChatEncoder(RECORD)
    whole = [RunStartedEvent(thread_id="s", run_id="r"), *events]
    said = chat.encode([(seq, encode_event(event)) for seq, event in enumerate(whole, 1)])
    chunks = [json.loads(data) for frame in frames(said) if (data := frame.data).startswith("{")]
    assert "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]) == pieces


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("wire", ["text", "chat"])
def test_a_wire_of_one_text_says_what_the_fold_does_from_any_place(name: str, wire: str):
    events, text = TALKS[name]
    whole = [RunStartedEvent(thread_id="s", run_id="r"), *events, RunFinishedEvent(thread_id="s", run_id="r")]
    fold = Fold()
    for event in whole:
        fold.add(event)
    assert fold.text == text
    stored = [encode_event(event) for event in whole]

    def said(after: int) -> str:
        encoder = TextEncoder(RECORD) if wire == "text" else ChatEncoder(RECORD)
        encoder.skip(stored[:after])
        return "".join(map(piece, encoder.encode(list(enumerate(stored[after:], after + 1))).split(b"\n\n")))

    assert said(0) == text
    for after in range(len(stored)):
        assert text.endswith(said(after))
        assert said(after) == said(0)[len(said(0)) - len(said(after)) :]


def piece(frame: bytes) -> str:
    for one in frames(frame + b"\n\n"):
        if one.data.startswith("{"):
            data = json.loads(one.data)
            choices = data.get("choices")
            return str(data.get("text", "") if choices is None else choices[0]["delta"].get("content") or "")
    return ""


async def looks(message: str) -> AsyncIterator[AgentItem]:
    yield "Let me "
    yield "look."
    yield ToolCallStartEvent(tool_call_id="c", tool_call_name="look")
    yield ToolCallEndEvent(tool_call_id="c")
    yield ToolCallResultEvent(message_id="m", tool_call_id="c", content="7")
    yield "It costs 7."


def adk(kind: Any) -> Any:
    def one(name: str) -> LlmAgent:
        return LlmAgent(name=name, model=adk_model(*words(f"I am {name}.")))

    return kind(name="both", sub_agents=[one("ann"), one("bob")])


async def look() -> str:
    """Look."""
    return "7"


def around_a_tool(make: Callable[..., Made]) -> Callable[[], Any]:
    return lambda: make("Let me ", "look.", ToolCall("look"), "It costs 7.", tools=[look]).agent


AGENTS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "around a tool": (lambda: looks, {"Let me look.\n\nIt costs 7."}),
    **{name: (around_a_tool(make), {"Let me look.\n\nIt costs 7."}) for name, make in FRAMEWORKS.items()},
    "in order": (lambda: adk(SequentialAgent), {"I am ann.\n\nI am bob."}),
    "side by side": (lambda: adk(ParallelAgent), {"I am ann.\n\nI am bob.", "I am bob.\n\nI am ann."}),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", AGENTS)
async def test_two_messages_are_two_paragraphs(name: str, client_of: Callable[..., Any]):
    make, texts = AGENTS[name]
    runner = Runner(make(), app_name="a")
    client = await client_of(runner)
    run = await runner.start("?", run_id="r")
    response = await run.collect()
    assert response.text in texts
    assert sorted("".join(response.chunks)) == sorted(response.text.replace("\n\n", "")), "as they came"
    assert "".join([text async for text in run.text()]) == response.text
    heard: list[str] = []
    await run.stream_to(heard.append)
    assert "".join(heard) == response.text
    answer = await client.get("/runs/r/events?wire=text", headers={"accept": "text/event-stream"})
    assert "".join(map(piece, answer.content.split(b"\n\n"))) == response.text
    question = {"model": "a", "messages": [{"role": "user", "content": "?"}]}
    asked = await client.post("/v1/chat/completions", json=question)
    if name != "side by side":  # and there another run may be the other way round; its model has said all
        assert asked.json()["choices"][0]["message"]["content"] == response.text
