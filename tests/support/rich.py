"""A scripted agent that says everything a run can say, and what the answer must come to."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    ActivityDeltaEvent,
    ActivitySnapshotEvent,
    CustomEvent,
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
)

REASONING = [f"thought {n}, " for n in range(40)] + ["so — 考える 🤔"]
TEXT = ["Hello,\n\n", 'a "quoted" line\n', "data: not a frame\n\n", "id: 7\n"] + [
    f"word{n} ünïcödé 🦉 {'x' * (n % 7)}\n" for n in range(150)
]
CLOSING = [f"and {n}. " for n in range(60)]
BEAT = 5
"""After so many deltas comes an event of another kind, so that a text that is caught up with still has many frames."""
_told_to_go: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
"""By session: its runs that are held may go on."""
ARGUMENTS = ['{"ci', 'ty": "Zü', 'rich \\u2603"', ', "days": [1, 2', ", 3]}"]
LONG_ARGUMENTS = json.dumps({"places": [f"Zürich {n}" for n in range(100)]}, ensure_ascii=False)
RESULT = '{"degrees":21,"sky":"clear ☀"}'
FILE_URL = "https://example.org/note.txt"
LINK = f"[text/plain](<{FILE_URL}>)"
"""What a file of the answer is on wires that carry text."""
MESSAGES = "".join(TEXT) + "\n\n" + "".join(CLOSING)
"""Two messages are two paragraphs."""
ANSWER = "".join(TEXT) + f"\n\n{LINK}\n\n" + "".join(CLOSING)
"""What readers who get one text get."""
RESPONSE = "".join(TEXT) + LINK + "".join(CLOSING)
"""The same of clients of OpenAI's responses, put together from its messages with nothing between them."""
ITEMS = "".join(TEXT) + "".join(CLOSING)
"""The same of clients that get each message as a part of its own, as the tests put the parts together: with nothing
between them."""


async def rich(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    """`rich`: everything. `held`: the same, but in the middle of its text it waits until somebody says `go SESSION`:
    it is still coming when a client joins it, however slow that is. `typed`: some text, then an output as a tool call.
    `error`: some text, then it fails. `endless`: text until it is cancelled; how far a follower is behind says how many
    frames that is. `approve`: asks before it calls its tool. `client-tool`: calls a tool of the client's; `long-tool`
    too, with long arguments in many pieces. `live`: sound beside its text, an interruption, and what the user says.
    Anything else: an echo. A number after it is the pause between deltas, in
    milliseconds."""
    what, _, more = message.partition(" ")
    if what == "go":
        _told_to_go[more].set()
        return
    pause_s = float(more or 0) / 1000
    async for item in _SCRIPTS.get(what, _echo)(message, ctx):
        yield item
        await asyncio.sleep(pause_s)


async def _echo(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    results = [one for one in ctx.messages if isinstance(one, ToolMessage)]
    if results and not message:
        yield f"{results[-1].content} it is."
    else:
        yield f"{len(ctx.messages)}:{message}"


async def _client_tool(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    id = f"{ctx.run_id}-c"
    yield "Where are you? "
    yield ToolCallStartEvent(tool_call_id=id, tool_call_name="locate")
    yield ToolCallArgsEvent(tool_call_id=id, delta='{"precise":')
    yield ToolCallArgsEvent(tool_call_id=id, delta="true}")
    yield ToolCallEndEvent(tool_call_id=id)


async def _long_tool(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    id = f"{ctx.run_id}-c"
    yield "Let me see. "
    yield ToolCallStartEvent(tool_call_id=id, tool_call_name="locate")
    for at in range(0, len(LONG_ARGUMENTS), 5):
        yield ToolCallArgsEvent(tool_call_id=id, delta=LONG_ARGUMENTS[at : at + 5])
        if at % (5 * BEAT) == 0:
            yield CustomEvent(name="beat", value=at)
    yield ToolCallEndEvent(tool_call_id=id)


async def _rich(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    thinking = f"{ctx.run_id}-r"
    yield StepStartedEvent(step_name="plan")
    yield StateSnapshotEvent(snapshot={"stage": "plan", "notes": []})
    yield ReasoningMessageStartEvent(message_id=thinking)
    for delta in REASONING:
        yield ReasoningMessageContentEvent(message_id=thinking, delta=delta)
    yield ReasoningMessageEndEvent(message_id=thinking)
    yield StepFinishedEvent(step_name="plan")
    for position, delta in enumerate(TEXT):
        if position == len(TEXT) // 2 and message.startswith("held"):
            await _told_to_go[ctx.session_id].wait()
        yield delta
        if position % BEAT == 0:
            yield CustomEvent(name="beat", value=position)
    async for event in _call(f"{ctx.run_id}-c"):
        yield event
    yield StateDeltaEvent(delta=[{"op": "replace", "path": "/stage", "value": "tell"}])
    yield ActivitySnapshotEvent(message_id=f"{ctx.run_id}-a", activity_type="search", content={"found": 1})
    yield ActivityDeltaEvent(
        message_id=f"{ctx.run_id}-a",
        activity_type="search",
        patch=[{"op": "replace", "path": "/found", "value": 2}],
    )
    yield CustomEvent(name="progress", value={"percent": 50})
    yield CustomEvent(name="source-url", value={"sourceId": "s1", "url": "https://example.org/", "title": "Example"})
    yield CustomEvent(name="gapless.file", value={"mimeType": "text/plain", "url": FILE_URL})
    for delta in CLOSING:
        yield delta
    ctx.add_usage(TokenUsage(provider="test", model="scripted", input_tokens=11, output_tokens=22, total_tokens=33))
    yield CustomEvent(name="gapless.finish", value={"reason": "stop"})


async def _call(id: str) -> AsyncIterator[AgentItem]:
    yield ToolCallStartEvent(tool_call_id=id, tool_call_name="weather")
    for delta in ARGUMENTS:
        yield ToolCallArgsEvent(tool_call_id=id, delta=delta)
    yield ToolCallEndEvent(tool_call_id=id)
    yield ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=RESULT)


async def _error(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    for position, delta in enumerate(TEXT):
        yield delta
        if position % BEAT == 0:
            yield CustomEvent(name="beat", value=position)
    raise RuntimeError("a secret that no client may see")


async def _typed(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    for delta in CLOSING:
        yield delta
    yield CustomEvent(name="gapless.output", value={"toolCallId": f"{ctx.run_id}-c"})
    async for event in _call(f"{ctx.run_id}-c"):
        yield event
    ctx.result = json.loads(RESULT)


async def _live(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    said, asked = f"{ctx.run_id}-m", f"{ctx.run_id}-u"
    for position, delta in enumerate(TEXT):
        if position % BEAT == 0:
            yield CustomEvent(name="gapless.audio", value={"mimeType": "audio/pcm;rate=24000", "data": "+/+/"})
        yield TextMessageContentEvent(message_id=said, delta=delta)
    yield TextMessageStartEvent(message_id=asked, role="user")
    for delta in CLOSING:
        yield TextMessageContentEvent(message_id=asked, delta=delta)
    yield TextMessageEndEvent(message_id=said)
    yield CustomEvent(name="gapless.interrupted", value={})
    yield TextMessageEndEvent(message_id=asked)
    yield CustomEvent(name="gapless.turn_complete", value={})
    for delta in CLOSING:
        yield delta
    yield CustomEvent(name="gapless.turn_complete", value={})


async def _endless(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    n = 0
    while True:
        yield f"{n} "
        n += 1


async def _approve(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    id = f"{ctx.run_id}-c"
    yield "May I? "
    yield ToolCallStartEvent(tool_call_id=id, tool_call_name="weather")
    yield ToolCallArgsEvent(tool_call_id=id, delta='{"city":"Zürich"}')
    yield ToolCallEndEvent(tool_call_id=id)
    asked = Interrupt(id=f"{id}-ask", reason="tool_approval", message="Look it up?", tool_call_id=id)
    (answer,) = await ctx.interrupt([asked])
    payload: Any = answer.payload if answer.status == "resolved" else None
    approved = isinstance(payload, dict) and payload.get("approved") is True
    result = RESULT if approved else "The user said no."
    yield ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=result)
    for position, delta in enumerate(CLOSING):
        yield delta
        if position % BEAT == 0:
            yield CustomEvent(name="beat", value=position)


_SCRIPTS = {
    "rich": _rich,
    "held": _rich,
    "typed": _typed,
    "error": _error,
    "live": _live,
    "endless": _endless,
    "approve": _approve,
    "client-tool": _client_tool,
    "long-tool": _long_tool,
}
