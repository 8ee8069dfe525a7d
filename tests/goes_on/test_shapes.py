"""A real server is killed under runs of agents of many shapes, one at each of their points, and another goes on."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from pydantic_ai import Agent

from gapless import Runner
from gapless.client import GaplessClient
from tests.goes_on import shapes
from tests.support import preloaded
from tests.support.outcomes import Outcome, what_is_left
from tests.support.processes import Server, client_of
from tests.support.published import OPENAI_SOURCES
from tests.support.waiting import WAIT_S

LOOK_S = 0.02
LEASE_S = "4"
OTHER_ORDER = {"agents_as_tools", "side_by_side", "own_saver"}
"""What is done side by side may end in another order."""


def lines_of(ledger: Path) -> list[list[str]]:
    return [line.split() for line in ledger.read_text().splitlines()]


def comparable(name: str, outcome: Outcome) -> object:
    if name in OTHER_ORDER:
        steps = [("text", part) for kind, *rest in outcome.said if kind == "text" for part in rest[0].split(". ")]
        steps += [step for step in outcome.said if step[0] != "text"]
        return sorted(map(repr, steps)), outcome.output
    return outcome


async def by_itself(name: str) -> tuple[Outcome, int]:
    """What comes of the agent where nothing is lost, and how many points it has."""
    run_id = f"{name}-alone"
    async with Runner(agents={name: getattr(shapes, name)}) as runner:
        run = await runner.start("Go on.", run_id=run_id)
        found = what_is_left([event async for event in run.events()])
    return found, shapes.points[run_id]


async def all_stand(client: GaplessClient, ledger: Path, run_ids: list[str]) -> None:
    async with asyncio.timeout(WAIT_S):
        while left := {*run_ids} - {run_id for run_id, _, what, _ in lines_of(ledger) if what == "stands"}:
            ended = [run_id for run_id in left if (await client.record(run_id)).status.ended]
            assert not ended, f"they ended and were to stand still: {ended}"
            await asyncio.sleep(LOOK_S)


@pytest.mark.skipif(not OPENAI_SOURCES, reason="the SDK's source is not there: scripts/environment fetches it")
async def test_each_goes_on_from_wherever_its_server_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ledger = tmp_path / "ledger"
    monkeypatch.setenv("GAPLESS_TEST_LEDGER", str(ledger))
    try:
        expected = {name: await by_itself(name) for name in shapes.NAMES}
    finally:
        shapes.patch.undo()
        Agent.instrument_all(False)  # one of the makers' own has said it
    assert all(count > 2 for _, count in expected.values())
    runs = {f"{name}-{at}": name for name, (_, count) in expected.items() for at in range(count)}
    agents = [f"{name}=tests.goes_on.shapes:{name}" for name in shapes.NAMES]
    environment = {"GAPLESS_TEST_LEDGER": str(ledger), "GAPLESS_TEST_LEASE_S": LEASE_S}
    struck, other = (
        Server(
            tmp_path,
            agent=agents[0],
            arguments=(*agents[1:], "--log-level", "warning"),
            environment={**environment, **more},
            popen=preloaded.PopenWithAllFrameworks,
        )
        for more in ({"GAPLESS_TEST_STRUCK": "1"}, {})
    )
    try:
        struck.start()
        async with client_of(struck.url) as client:
            for run_id, name in runs.items():
                await client.start("Go on.", run_id=run_id, agent=name)
            await all_stand(client, ledger, [*runs])
        struck.signal(signal.SIGKILL)
        struck.wait()
        other.start()
        async with client_of(other.url) as client, asyncio.timeout(WAIT_S):
            found = {run_id: what_is_left([event async for _, event in client.follow(run_id)]) for run_id in runs}
    finally:
        struck.close()
        other.close()
    wrong = {
        run_id: (found[run_id], expected[name][0])
        for run_id, name in runs.items()
        if comparable(name, found[run_id]) != comparable(name, expected[name][0])
    }
    assert not wrong
    check_steps(lines_of(ledger), str(struck.pid), [*runs])


def check_steps(lines: list[list[str]], struck: str, run_ids: list[str]) -> None:
    """Check that no tool was called again of which the model had been told before the server was killed; but by agents
    that are called as tools: such a call is made again as a whole."""
    told, ended = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for run_id, step, what, pid in lines:
        if run_id not in run_ids or run_id.startswith("agents_as_tools"):
            continue
        if pid == struck and what == "ends":
            ended[run_id].add(step)
        elif pid == struck and step == "model":
            told[run_id] |= ended[run_id]
        elif pid != struck and what == "begins":
            assert step not in told[run_id], f"{run_id}: {step} was done again"
