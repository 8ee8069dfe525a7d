"""What a double says: typed chunks, gates between them, and the plain agent that says them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.config import StreamingMode
from gapless.errors import UsageError
from gapless.events import (
    CustomEvent,
    Event,
    EventBase,
    ReasoningMessageChunkEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    UserMessage,
)
from gapless.output import OUTPUT_EVENT

__all__ = [
    "Chunk",
    "Delay",
    "Fail",
    "Gate",
    "NextTurn",
    "Output",
    "Reasoning",
    "ScriptedAgent",
    "Text",
    "ToolCall",
    "words",
]

PIECE_CHARS = 16
"""Arguments and outputs are streamed in pieces of so many characters of their JSON."""
OUTPUT_TOOL = "final_result"
"""The tool call that carries a plain agent's output."""


class Text(msgspec.Struct, frozen=True):
    """Says one piece of the answer, `text`: one delta. A plain string does the same."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """Says one piece of what the model thinks, `text`."""

    text: str


class ToolCall(msgspec.Struct, frozen=True):
    """Calls the tool `name` with `args`. `result` is what a plain agent reports; behind a model, the agent's own tool
    is called for it.
    """

    name: str
    args: dict[str, Any] = {}
    result: Any = None


class Output(msgspec.Struct, frozen=True):
    """Gives the typed output, `value`, as JSON values; it grows while it streams. What stands after it answers an agent
    that did not take it.
    """

    value: Any


class Delay(msgspec.Struct, frozen=True):
    """Lets `seconds` of real time pass: for demonstrations. In a test, use a `Gate`."""

    seconds: float


class Fail(msgspec.Struct, frozen=True):
    """Raises `error` here."""

    error: Exception


class NextTurn(msgspec.Struct, frozen=True):
    """Separates turns: what follows answers the session's next message. After the last turn, the last one is said
    again.
    """


class Gate:
    """Makes a double wait for the test. May stand in several places, and be used from any thread.

    gate = Gate()
    agent = ScriptedAgent("one", gate, "two")
    ...
    await gate.reached()    # "one" has been said
    gate.let()              # now "two"
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals = 0
        self._permits = 0
        self._is_open = False
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    async def reached(self, times: int = 1) -> None:
        """Wait until doubles have come to this gate `times` times, over all runs."""
        await self._until(lambda: self._arrivals >= times)

    def let(self, count: int = 1) -> None:
        """Let `count` doubles pass, now or when they come."""
        with self._lock:
            self._permits += count
            self._wake()

    def open(self) -> None:
        """Let everyone pass from now on."""
        with self._lock:
            self._is_open = True
            self._wake()

    async def pass_through(self) -> None:
        """Wait here; for doubles of your own."""
        with self._lock:
            self._arrivals += 1
            self._wake()
        await self._until(self._take)

    def _take(self) -> bool:
        if self._is_open:
            return True
        if self._permits:
            self._permits -= 1
            return True
        return False

    async def _until(self, condition: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                if condition():
                    return
                waiter = (loop, asyncio.Event())
                self._waiters.add(waiter)
            try:
                await waiter[1].wait()
            finally:
                with self._lock:
                    self._waiters.discard(waiter)

    def _wake(self) -> None:
        for loop, event in self._waiters:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(event.set)


Chunk: TypeAlias = str | Text | Reasoning | ToolCall | Output | Delay | Fail | Gate | NextTurn


def words(text: str) -> list[Text]:
    """Make one chunk per word of `text`: `ScriptedAgent(*words("Streams word by word."))`."""
    return [Text(word) for word in re.findall(r"\S+\s*|\s+", text)]


def turns_of(chunks: Sequence[Any]) -> list[list[Any]]:
    """Return the chunks, turn by turn."""
    turns: list[list[Any]] = [[]]
    for chunk in chunks:
        if isinstance(chunk, NextTurn):
            turns.append([])
        else:
            turns[-1].append(chunk)
    return turns


def responses_of(turn: Iterable[Chunk]) -> list[list[Chunk]]:
    """Return one turn as the responses of a model: tool calls that stand side by side end one, and so does an
    output.
    """
    responses: list[list[Chunk]] = [[]]
    last: Chunk | None = None
    for chunk in turn:
        if isinstance(last, Output) or (isinstance(last, ToolCall) and not isinstance(chunk, ToolCall)):
            responses.append([])
        responses[-1].append(chunk)
        last = chunk
    if isinstance(last, ToolCall):
        responses.append([Text("")])  # the model has nothing to say to the results
    return responses


def response_at(chunks: Sequence[Chunk], turn: int, request: int) -> list[Chunk]:
    """Return what a model says to the n-th request of a turn, both counted from 0. Raises `UsageError` past
    the script.
    """
    turns = turns_of(chunks)
    responses = responses_of(turns[min(turn, len(turns) - 1)])
    if request >= len(responses):
        raise UsageError(
            f"the script has {len(responses)} model responses for this turn and the agent asked for another one"
        )
    return responses[request]


def call_id() -> str:
    """Make the id of a model's tool call. No other process makes it: a run goes on there, in a fork of this one too."""
    return f"call-{uuid.uuid4().int >> 64}"


async def wait_or_raise(chunk: object) -> bool:
    """Do what a chunk that says nothing does; False for one that says something."""
    if isinstance(chunk, Gate):
        await chunk.pass_through()
    elif isinstance(chunk, Delay):
        await asyncio.sleep(chunk.seconds)
    elif isinstance(chunk, Fail):
        raise chunk.error.with_traceback(None)  # the same one may be raised in every run
    else:
        return False
    return True


def pieces(value: Any) -> list[str]:
    """Return a value's JSON in pieces, as a model streams it."""
    text = json.dumps(value)
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]


class ScriptedAgent(Agent):
    """Says its `chunks` in every run, as a plain agent for `Runner`; without streaming, adjacent text as one piece.

    Events of `gapless.events` may stand among the chunks. `name` is the agent's.
    """

    def __init__(self, *chunks: Chunk | Event, name: str = "scripted") -> None:
        self.name = name
        self.runs = 0
        """Runs that were begun."""
        self.running = 0
        """Runs that are being answered: 0 once a cancel has reached the agent."""
        self._turns = turns_of(chunks)

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        asked = sum(isinstance(message, UserMessage) for message in ctx.messages)
        turn = self._turns[min(max(asked, 1), len(self._turns)) - 1]
        streaming = ctx.config.streaming_mode is not StreamingMode.NONE
        self.runs += 1
        self.running += 1
        try:
            id, text = "", ""
            before: object = None
            for position, chunk in enumerate(turn):
                if await wait_or_raise(chunk):
                    continue
                if not (isinstance(chunk, Reasoning) and isinstance(before, Reasoning)):  # it goes on thinking
                    id = f"{ctx.run_id}-said-{position}"
                for item in _said(chunk, id, ctx):
                    if isinstance(item, str) and not streaming:
                        text += item
                        continue
                    if text:
                        yield text
                        text = ""
                    yield item
                before = chunk
            if text:
                yield text
        finally:
            self.running -= 1


def _said(chunk: Any, id: str, ctx: RunContext) -> Iterable[AgentItem]:
    if isinstance(chunk, str | EventBase):
        yield chunk  # type: ignore[misc]  # every event struct is in the union
    elif isinstance(chunk, Text):
        yield chunk.text
    elif isinstance(chunk, Reasoning):
        yield ReasoningMessageChunkEvent(message_id=id, delta=chunk.text)
    elif isinstance(chunk, ToolCall):
        yield from _call(id, chunk.name, chunk.args)
        result = chunk.result if isinstance(chunk.result, str) else json.dumps(chunk.result)
        yield ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=result, role="tool")
    elif isinstance(chunk, Output):
        yield CustomEvent(name=OUTPUT_EVENT, value={"toolCallId": id})
        yield from _call(id, OUTPUT_TOOL, chunk.value)
        ctx.result = chunk.value
    else:
        raise UsageError(f"a {type(chunk).__name__} is no chunk of a script")


def _call(id: str, name: str, arguments: Any) -> Iterable[Event]:
    for piece in pieces(arguments):
        yield ToolCallChunkEvent(tool_call_id=id, tool_call_name=name, delta=piece)
    yield ToolCallEndEvent(tool_call_id=id)
