"""Ten tabs in a real Chromium, on one conversation of a real server."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from gapless import RunConfig, Runner, create_app
from gapless.testing import serving
from tests.support.node import NODE, install

HERE = Path(__file__).parent
S_MAX = 300
TABS, WORDS = 10, 60


async def agent(message: str) -> AsyncIterator[str]:
    for n in range(WORDS):
        yield f"{message.split()[-1]}.{n} "
        await asyncio.sleep(0)


@pytest.mark.timeout(S_MAX)
@pytest.mark.parametrize(("size", "questions", "cuts"), [("desk", 8, 100), ("phone", 4, 50)])
def test_ten_tabs_that_are_cut_off_all_the_time_show_the_same_over_one_connection_each(
    size: str, questions: int, cuts: int
) -> None:
    install(HERE)
    seed = random.randrange(1 << 30)
    print(f"node ten_tabs.mjs URL {seed} {questions} {cuts} {size}")
    runner = Runner(agent, config=RunConfig(on_busy="queue"))
    with serving(create_app(runner)) as url:
        httpx2.post(f"{url}/sessions", json={"id": "s"})
        command = [NODE, "ten_tabs.mjs", url, str(seed), str(questions), str(cuts), size]
        with subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tabs:
            assert tabs.stdin is not None
            assert tabs.stdout is not None
            told = json.loads(tabs.stdout.readline() or "null")
            assert told is not None, "it says what went wrong on standard error"
            connections = runner.metrics.followers
            tabs.stdin.write("\n")
            tabs.stdin.close()
        messages = httpx2.get(f"{url}/sessions/s/messages").json()["messages"]
    said = [message["content"].strip() for message in messages if message["role"] in ("user", "assistant")]
    wanted = [list(pair) for pair in zip(said[::2], said[1::2], strict=True)]
    assert len(wanted) >= questions
    assert len(told["shown"]) == TABS
    for shown in told["shown"]:
        assert shown == wanted
    assert told["cuts"] >= cuts // 2
    assert told["problems"] == []
    assert connections == TABS
