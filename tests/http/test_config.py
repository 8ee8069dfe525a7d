"""The settings of a run that a client may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from gapless import RunConfig, Runner
from gapless.agents.base import RunContext
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
