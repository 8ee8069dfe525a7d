"""The agent that the matrix's clients ask. Each message names a case and its asker: `calls vue7.abrupt`.

Every answer is long enough for ten cuts, and has an event of another kind after every few deltas: what is caught up
with has many frames all the same.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable

from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    CustomEvent,
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)
from gapless.messages import text_of
from tests.support.rich import BEAT, CLOSING, LONG_ARGUMENTS, REASONING, RESULT, TEXT

FAILURE = "no such city: Zürich ☹"
DOT = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(n * 7 % 251 for n in range(100_000))
"""Past the size up to which a file is in its event."""
PAUSE_S = 0.001
WAITING = "Say when."
"""The end of what is said before a cancel."""
asked: defaultdict[str, list[str]] = defaultdict(list)
"""The runs of each case of each asker, by the message that began it."""


async def agent(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Answer a case; a client's own tool's result is told in what comes after it."""
    first = message or _question(ctx)
    asked[first].append(ctx.run_id)
    answer = CASES.get(first.partition(" ")[0])
    async for item in _other(message) if answer is None else answer(ctx):
        yield item
        await asyncio.sleep(PAUSE_S)


def _question(ctx: RunContext) -> str:
    """What a client's tool was called for."""
    said = [text_of(one.content) for one in ctx.messages if isinstance(one, UserMessage)]
    return next(filter(None, reversed(said)), "")


async def _other(message: str) -> AsyncIterator[AgentItem]:
    yield f"You said {message}"


async def _say(pieces: Iterable[str]) -> AsyncIterator[AgentItem]:
    for position, delta in enumerate(pieces):
        yield delta
        if position % BEAT == 0:
            yield CustomEvent(name="beat", value=position)


async def _call(id: str, name: str) -> AsyncIterator[AgentItem]:
    yield ToolCallStartEvent(tool_call_id=id, tool_call_name=name)
    for at in range(0, len(LONG_ARGUMENTS), 40):
        yield ToolCallArgsEvent(tool_call_id=id, delta=LONG_ARGUMENTS[at : at + 40])
    yield ToolCallEndEvent(tool_call_id=id)


async def _text(ctx: RunContext) -> AsyncIterator[AgentItem]:
    id = f"{ctx.run_id}-r"
    yield ReasoningMessageStartEvent(message_id=id)
    for delta in REASONING:
        yield ReasoningMessageContentEvent(message_id=id, delta=delta)
    yield ReasoningMessageEndEvent(message_id=id)
    async for item in _say(TEXT):
        yield item


async def _calls(ctx: RunContext) -> AsyncIterator[AgentItem]:
    async for item in _say(TEXT):
        yield item
    for number in range(2):
        id = f"{ctx.run_id}-c{number}"
        async for item in _call(id, "weather"):
            yield item
        yield ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=RESULT)
    async for item in _say(CLOSING):
        yield item


async def _failed(ctx: RunContext) -> AsyncIterator[AgentItem]:
    id = f"{ctx.run_id}-c"
    async for item in _say(TEXT):
        yield item
    async for item in _call(id, "weather"):
        yield item
    yield ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=FAILURE, error=FAILURE)
    async for item in _say(CLOSING):
        yield item


async def _own(ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Calls a tool of the client's; then says what that said."""
    result = next((one for one in reversed(ctx.messages) if isinstance(one, ToolMessage)), None)
    if result is not None and isinstance(result.content, str):
        yield f"It says {result.content}. "
    async for item in _say(TEXT):
        yield item
    if result is None:
        async for item in _call(f"{ctx.run_id}-c", "locate"):
            yield item


async def _error(ctx: RunContext) -> AsyncIterator[AgentItem]:
    async for item in _say(TEXT):
        yield item
    raise RuntimeError("a secret that no client may see")


async def _questions(ctx: RunContext) -> AsyncIterator[AgentItem]:
    id = f"{ctx.run_id}-c"
    async for item in _say(TEXT):
        yield item
    async for item in _call(id, "weather"):
        yield item
    ask = Interrupt(id=f"{id}-ask", reason="tool_approval", message="Look it up?", tool_call_id=id)
    (answer,) = await ctx.interrupt([ask])
    assert answer.payload["approved"] is True
    yield ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=RESULT)
    async for item in _say(CLOSING):
        yield item


async def _cancel(ctx: RunContext) -> AsyncIterator[AgentItem]:
    async for item in _say(TEXT):
        yield item
    yield WAITING
    await asyncio.Event().wait()


async def _media(ctx: RunContext) -> AsyncIterator[AgentItem]:
    async for item in _say(TEXT):
        yield item
    for data in (DOT, PICTURE):
        yield CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": data})
    async for item in _say(CLOSING):
        yield item


CASES: dict[str, Callable[[RunContext], AsyncIterator[AgentItem]]] = {
    "text": _text,
    "calls": _calls,
    "own": _own,
    "own_failed": _own,
    "failed": _failed,
    "error": _error,
    "questions": _questions,
    "cancel": _cancel,
    "media": _media,
}
