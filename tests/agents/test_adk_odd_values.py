"""What tools, states and callbacks of ADK agents may hold: it is told as JSON can say it, and the next turn works."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.adk.agents import LlmAgent
from google.adk.models.llm_response import LlmResponse
from google.adk.tools import ToolContext
from google.genai import types

from gapless import Runner
from gapless.errors import ToolFailed
from gapless.events import RunFinishedEvent, StateDeltaEvent, ToolCallResultEvent
from gapless.fold import Fold
from tests.support.adk import Call, Scripted
from tests.support.adk_runs import agent_of, all_of

DEEP: Any = "x"
for _ in range(150):
    DEEP = [DEEP]

VALUES: dict[str, tuple[Any, Any]] = {
    "no number": (float("nan"), None),
    "bytes": (b"\xff", "_w=="),
    "half a character": ("a\ud83d", "a\ufffd"),
    "half a character in a name": ({"a\ud83d": 1}, {"a\ufffd": 1}),
    "a large number": ({"n": 2**70}, {"n": 2**70}),
    "a set": ({1}, [1]),
}


@pytest.mark.parametrize("kind", [*VALUES, "many levels"])
async def test_a_tool_may_return_anything_and_the_conversation_goes_on(kind: str):
    value, told = VALUES.get(kind, (DEEP, None))

    def tool() -> Any:
        return value

    def keep(tool_context: ToolContext) -> str:
        """Keeps."""
        tool_context.state["kept"] = value
        return "kept"

    agent = agent_of([Call("tool", id="c1"), Call("keep", id="c2")], ["Done."], tools=[tool, keep])
    async with Runner(agent) as runner:
        events = await all_of(await runner.start("go", session_id="s"))
        assert (await (await runner.start("again", session_id="s")).collect()).text == "Done."
    assert isinstance(events[-1], RunFinishedEvent), events[-1]
    result = next(event for event in events if isinstance(event, ToolCallResultEvent))
    content = json.loads(str(result.content), parse_constant=pytest.fail)
    content = content.get("result", content)
    (delta,) = (event.delta for event in events if isinstance(event, StateDeltaEvent))
    if kind == "many levels":
        assert "…" in str(content)
        assert "…" in str(delta)
    else:
        assert content == told
        assert delta[0]["value"] == told


async def test_a_tool_that_finds_nothing_next_fails_and_is_not_waited_for():
    def first() -> str:
        """The first of none."""
        return next(iter(()))

    async with Runner(agent_of([Call("first", id="c1")], ["Done."], tools=[first])) as runner:
        with pytest.raises(ToolFailed, match="first raised RuntimeError"):
            await (await runner.start("go", session_id="s")).collect()
        assert (await (await runner.start("again", session_id="s")).collect()).text == "Done."


async def test_a_text_that_a_callback_replaces_at_its_end_is_taken_back():
    def soften(callback_context: Any, llm_response: LlmResponse) -> LlmResponse | None:
        if llm_response.partial or not llm_response.content:
            return None
        said = types.Content(role="model", parts=[types.Part(text="Softer.")])
        return LlmResponse(content=said)

    agent = LlmAgent(name="helper", model=Scripted(["Hard ", "words."]), after_model_callback=soften)
    async with Runner(agent) as runner:
        run = await runner.start("go")
        events = await all_of(run)
        response = await run.collect()
    assert (response.text, response.chunks) == ("Softer.", ["Softer."])
    fold = Fold()
    for event in events:
        fold.add(event)
    assert [message.content for message in fold.messages()] == ["Softer."]
