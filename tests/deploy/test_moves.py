"""A run that real servers lose and hand over says in its timeline from which to which."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from gapless.cli import app
from tests.support import steps
from tests.support.processes import Server
from tests.support.waiting import until

Start = Callable[[], Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start another server on one file; its operator is whoever asks."""
    servers: list[Server] = []

    def start() -> Server:
        folder = tmp_path / f"server-{len(servers)}"
        folder.mkdir()
        server = Server(
            folder,
            store=f"sqlite:///{tmp_path / 'gapless.db'}",
            arguments=("--operator", "anonymous", "--drain", "0.1"),
            agent=f"{steps.__file__}:agent",
            environment={"GAPLESS_TEST_STEPS": str(tmp_path), "GAPLESS_TEST_LEASE_S": "60"},
        )
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


async def asked(server: Server, path: str) -> Any:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, verify=False) as client:
        return (await client.get(path)).raise_for_status().json()


async def test_a_killed_and_a_stopped_server_are_seen_in_the_timeline_of_their_run(start: Start, tmp_path: Path):
    first, second = start(), start()
    async with httpx2.AsyncClient(base_url=first.url, trust_env=False, verify=False) as client:
        (await client.post("/runs", json={"message": "go", "run_id": "r"})).raise_for_status()
    (tmp_path / "one").touch()

    async def has_said_one() -> bool:
        return any("one" in entry.get("text", "") for entry in (await asked(second, "/runs/r/timeline"))["entries"])

    await until(has_said_one, "the first step is done")
    workers = [(await asked(second, "/runs/r"))["worker"]]

    async def has_moved() -> str:
        worker: str = (await asked(last, "/runs/r"))["worker"]
        return worker if worker and worker not in workers else ""

    first.kill()
    last = second
    workers.append(await until(has_moved, "the second server takes it over"))
    last = start()
    assert await asyncio.to_thread(second.terminate) == 0
    workers.append(await until(has_moved, "and hands it over"))
    (tmp_path / "two").touch()

    async def has_ended() -> bool:
        return bool((await asked(last, "/runs/r"))["status"] == "finished")

    await until(has_ended, "the third ends it")
    shown = await asked(last, "/runs/r/timeline")
    a, b, c = workers
    assert shown["worker"] == a
    moves = [(move["what"], move["from_worker"], move["to_worker"]) for move in shown["moves"]]
    assert moves == [("taken over", a, b), ("handed over", b, c)]
    times = [time for move in shown["moves"] for time in (move["at"], move["ended_at"])]
    assert times == sorted(times)
    printed = (await asyncio.to_thread(CliRunner().invoke, app, ["run", "r", "--url", last.url])).output
    said = [" ".join(line.split()[3:]) for line in printed.splitlines() if "over" in line or "starts" in line]
    assert said == [
        f"starts at worker {a}",
        f"taken over from {a} to {b}: its worker was lost",
        f"handed over from {b} to {c}: its worker was stopped",
    ]
