"""A run's settings on their way to ADK's model, and models that cannot stream or run ahead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gapless import RunConfig
from gapless.agents.adk import ADKAgent
from gapless.agents.adk_plugin import AHEAD_EVENTS_MAX
from gapless.agents.base import RunContext
from gapless.events import (
    RunErrorEvent,
    TextMessageContentEvent,
)
from tests.support.adk_runs import agent_of, ask, custom


@pytest.mark.parametrize(("tokens", "stop"), [("max_tokens", ["END"]), ("max_completion_tokens", "END")])
async def test_generation_settings_reach_the_model(tokens: str, stop: Any):
    agent = agent_of(["ok"])
    settings = {"temperature": 0.1, tokens: 7, "stop": stop, "model": "other", "unheard_of": 1}
    events = await ask(agent, config=RunConfig(model_settings=settings))
    (config,) = agent.model.configs
    assert (config.temperature, config.max_output_tokens, config.stop_sequences) == (0.1, 7, ["END"])
    assert [notice["code"] for notice in custom(events, "gapless.notice")] == ["setting_ignored"]
    assert agent.generate_content_config is None or agent.generate_content_config.temperature is None


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("wanted", "mime_type", "schema"),
    [
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, "application/json", SCHEMA),
        ({"type": "json_object"}, "application/json", None),
        ({"type": "text"}, None, None),
        ("json", None, None),
    ],
)
async def test_openais_response_format_is_geminis_schema(wanted: Any, mime_type: str | None, schema: Any):
    agent = agent_of(["{}"])
    events = await ask(agent, config=RunConfig(model_settings={"response_format": wanted}))
    (config,) = agent.model.configs
    assert (config.response_mime_type, config.response_json_schema) == (mime_type, schema)
    assert custom(events, "gapless.notice") == []


async def test_a_model_that_cannot_stream_answers_in_one_piece_and_says_so():
    events = await ask(agent_of(["Hello ", "there"], refuses_streams=True))
    assert [notice["code"] for notice in custom(events, "gapless.notice")] == ["streaming_unavailable"]
    assert [e.delta for e in events if isinstance(e, TextMessageContentEvent)] == ["Hello there"]


async def test_without_fallback_a_model_that_cannot_stream_fails():
    events = await ask(agent_of(["x"], refuses_streams=True), config=RunConfig(fallback=False))
    assert isinstance(events[-1], RunErrorEvent)
    assert events[-1].code == "streaming_unavailable"


async def test_a_model_does_not_run_far_ahead_of_the_journal():
    agent = agent_of([f"{n} " for n in range(AHEAD_EVENTS_MAX * 5)])
    model = agent.model
    adapter = ADKAgent(agent)
    ctx = RunContext(
        run_id="r",
        session_id="s",
        user_id="u",
        agent_name="helper",
        content="go",
        messages=[],
        config=RunConfig(),
        interrupt=lambda interrupts: asyncio.sleep(0, []),
    )
    stream = adapter.run(ctx)
    await anext(stream)
    for _ in range(AHEAD_EVENTS_MAX * 20):
        await asyncio.sleep(0)
    assert model.at < AHEAD_EVENTS_MAX * 2, "nobody reads, and the model was read all the same"
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator
    assert model.running == 0
