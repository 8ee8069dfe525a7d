"""Services by URL, scripted byte for byte: what they say, and how they are asked."""

from __future__ import annotations

from typing import Any

from gapless import Runner
from gapless.errors import (
    GaplessError,
)
from gapless.events import (
    RunErrorEvent,
    Tool,
)
from gapless.fold import Fold
from tests.support.upstream import sse

WEATHER = Tool(name="weather", description="Tells the weather.", parameters={"type": "object", "properties": {}})


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


HELLO = sse(chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk("stop"), "[DONE]")


def call(index: int, id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return {"index": index, "function": function} | ({"id": id, "type": "function"} if id else {})


async def ask(agent: object, message: str = "Hi", **options: Any) -> tuple[Fold, list[Any]]:
    """Run it through a runner, as users do. Raises the run's error."""
    async with Runner(agent) as runner:
        run = await runner.start(message, **options)
        fold, events = Fold(), []
        async for event in run.events():
            fold.add(event)
            events.append(event)
        record = await run.record()
        if isinstance(events[-1], RunErrorEvent):
            failure = GaplessError(events[-1].message, code=events[-1].code)
            failure.text = fold.text
            raise failure
        assert record.status.value == "finished"
        return fold, events
