"""A real server is killed under runs of the Claude Agent SDK, and another goes on: with the SDK's real command line."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.support import heavy

if not heavy.has("claude_agent_sdk"):
    pytest.skip(heavy.MISSING, allow_module_level=True)

from tests.support.outcomes import what_is_left
from tests.support.processes import Server, client_of
from tests.support.waiting import WAIT_S

SAID = [
    ("text", "I look. "),
    ("call", "look", {"at": "sea"}),
    ("result", "seen the sea"),
    ("text", "And book. "),
    ("call", "book", {"what": "boat"}),
    ("result", "booked the boat"),
    ("text", "It is done."),
]
KEPT: dict[int, list[str]] = {0: [], 1: [], 2: [], 3: [], 4: ["look"], 5: ["look"]}
"""The calls that are not made again, by the point. Of a call that has just returned, the command line tells some 0.1 s
later, when it has asked the model already: a worker that is killed within that time makes it again, one that was slower
does not."""
LOOK_S = 0.02


def lines_of(ledger: Path) -> list[list[str]]:
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


@pytest.mark.parametrize("point", KEPT)
async def test_it_goes_on_from_wherever_its_server_was_killed(point: int, tmp_path: Path):
    ledger = tmp_path / "ledger"
    environment = {"GAPLESS_TEST_LEDGER": str(ledger), "GAPLESS_TEST_LEASE_S": "2"}
    struck, other = (
        Server(tmp_path, agent="claude=tests.agents.heavy.killed:agent", environment={**environment, **more})
        for more in ({"GAPLESS_TEST_POINT": str(point)}, {})
    )
    try:
        struck.start()
        async with client_of(struck.url) as client, asyncio.timeout(WAIT_S):
            await client.start("Go on.", run_id="r")
            while not any(what == "stands" for _, _, what, _ in lines_of(ledger)):
                await asyncio.sleep(LOOK_S)
        struck.signal(signal.SIGKILL)
        struck.wait()
        other.start()
        async with client_of(other.url) as client, asyncio.timeout(WAIT_S):
            events = [event async for _, event in client.follow("r")]
    finally:
        struck.close()
        other.close()
    assert what_is_left(events).said == SAID
    lines = lines_of(ledger)
    again = {what for what, _, did, pid in lines if did == "comes" and pid == str(other.pid)}
    assert not {*KEPT[point]} & again, "no tool is called again whose result is kept"
    assert {"look", "book"} == {what for what, _, did, *_ in lines if did == "ends"}
