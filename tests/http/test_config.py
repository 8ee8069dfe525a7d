"""The settings of a run that a client may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from gapless import ClientConfig, RunConfig, Runner, StreamingMode
from gapless.agents.base import RunContext
from gapless.errors import InputInvalid
from gapless.http.config import AskedConfig, config_with, live_config
from tests.support.over_http import STREAM


@pytest.mark.parametrize(("path", "says"), [("/runs", "message"), ("/chat/stream", "query")])
async def test_what_a_client_leaves_out_of_the_config_is_the_operators(
    path: str, says: str, client_of: Callable[..., Any]
):
    seen: list[RunConfig] = []

    async def agent(message: str, ctx: RunContext) -> AsyncIterator[str]:
        seen.append(ctx.config)
        yield "ok"

    config = RunConfig(timeout=30, on_busy="queue", max_llm_calls=3, model_settings={"model": "m", "temperature": 0.5})
    client = await client_of(Runner(agent, config=config))
    hotter = {"timeout": 5, "model_settings": {"temperature": 1}}
    for asked in ({}, hotter, {"timeout": 30, "first_event_timeout": 900}):
        await client.post(path, json={says: "x", "config": asked}, headers=STREAM)
    config = msgspec.structs.replace(config, on_worker_lost="fail")  # as it is for a function, which cannot go on
    assert seen == [
        config,
        msgspec.structs.replace(config, timeout=5, model_settings={"model": "m", "temperature": 1}),
        msgspec.structs.replace(config, first_event_timeout=900),
    ]
    for name, wanted in (("timeout", None), ("timeout", 31), ("max_llm_calls", 4), ("max_llm_calls", None)):
        refused = await client.post(path, json={says: "x", "config": {name: wanted}})
        assert (refused.status_code, f"config.{name}: at most" in refused.json()["error"]["message"]) == (422, True)
    assert len(seen) == 3


async def test_what_a_protocol_wants_by_itself_is_left_to_clients_or_the_operators(client_of: Callable[..., Any]):
    runner = Runner(lambda message: message)
    assert config_with(runner, on_busy="interrupt", streaming_mode=StreamingMode.NONE) == RunConfig(
        on_busy="interrupt", streaming_mode=StreamingMode.NONE
    )
    assert live_config(runner).streaming_mode is StreamingMode.BIDI
    left = ClientConfig(on_busy=frozenset(), streaming_mode=frozenset({StreamingMode.SSE}))
    closed = Runner(lambda message: message, client_config=left)
    assert config_with(closed, on_busy="interrupt", streaming_mode=StreamingMode.NONE) == RunConfig()
    for asked in (None, AskedConfig(), AskedConfig(streaming_mode=StreamingMode.SSE)):
        with pytest.raises(InputInvalid, match="'bidi' is the operator's to choose"):
            live_config(closed, asked)
    client = await client_of(closed)
    said = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "x"}]}
    asked_again = {"id": "c", "messages": [said], "trigger": "regenerate-message"}
    response = await client.post("/vercel/chat", json=asked_again)
    record = await closed.get_run(response.headers["x-run-id"])
    assert record.config is not None
    assert record.config.on_busy == "reject"
