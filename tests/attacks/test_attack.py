"""What `scripts/attack` does for an hour, for seconds; and its fuzzers, each on a server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from gapless import Runner, create_app
from gapless.testing import serving
from tests.attacks import attackers, fuzzer, served
from tests.attacks.connection import Connection, NoAnswer, ws_handshake
from tests.attacks.siege import RUN_CODES, Siege
from tests.support.preloaded import Popen
from tests.support.waiting import WAIT_S, until

SEED = random.randrange(10**6)
REQUESTS, SOCKETS = 120, 30
REST_S = 0.1
"""For a server that waits for the rest of a request, or of what a client says."""
SIEGE_S = 6.0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    agents = {name: getattr(served, name) for name in served.AGENTS if name not in ("model", "fails")}
    with serving(create_app(Runner(agents=agents)), http="httptools", log_config=None) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    print(f"seed {SEED}")
    yield
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [line for line in said if "Invalid UTF-8" not in line] == []  # `gapless serve` leaves that out


async def test_no_request_is_answered_with_an_error_of_the_server(port: int) -> None:
    app = create_app(Runner(served.words))
    routes = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    ids = fuzzer.Ids("anonymous", [name for name in served.AGENTS if name not in ("model", "fails")])

    async def one(number: int) -> None:
        hostile = fuzzer.hostile_request(f"{SEED}:{number}", routes, ids, None)
        with contextlib.suppress(NoAnswer):
            async with Connection(port, hostile.raw) as connection:
                status = await connection.head(REST_S if hostile.unfinished else 60.0)
                if status >= 500:
                    body = await connection.body()
                    assert any(code.encode() in body for code in RUN_CODES), (SEED, number, body, hostile.raw[:2000])

    for first in range(0, REQUESTS, 20):
        await asyncio.gather(*(one(number) for number in range(first, first + 20)))


async def test_no_frame_of_a_websocket_harms(port: int) -> None:
    async def one(number: int) -> None:
        rng = random.Random(f"{SEED}:{number}")  # to be made again
        async with Connection(port, ws_handshake("/live?agent=live", {})) as connection:
            assert await connection.head() == 101
            await connection.send(b"".join(fuzzer.hostile_frames(rng)), REST_S)

    await asyncio.gather(*(one(number) for number in range(SOCKETS)))
    async with Connection(port, ws_handshake("/live?agent=live", {})) as connection:
        assert await connection.head() == 101, "the server has others to hear"


def test_a_seed_makes_the_same_request_again() -> None:
    ids = fuzzer.Ids("a", ["words"])
    routes = [("POST", path) for path in fuzzer.BODIES]
    made = [[fuzzer.hostile_request(f"7:{n}", routes, ids, "key").raw for n in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) == 50


def test_what_should_not_be_is_a_fault(tmp_path: Path) -> None:
    siege = Siege("sqlite:///none.db", tmp_path, seed=1, seconds=1)
    siege.took("fuzzed", 503, "", b'{"error":{"code":"store_unavailable"}}')
    siege.took("fuzzed", 500, "", b'{"error":{"code":"agent_failed"}}')
    assert siege.report()["holds"]
    siege.took("fuzzed", 500, "GET /runs", b"Internal Server Error")
    siege.took("fuzzed", 200, "GET /runs", served.SECRET.encode())
    for line in (b"Traceback (most recent call last):", b'{"level":"error","message":"a bug"}', b'{"exception":"x"}'):
        siege.judge_line(line)
    siege._killed[4711] = 0.0
    for pid in (4711, 4712):
        siege.judge_line(b'{"level":"warning","message":"worker process %d was ended by signal 9 (Killed)"}' % pid)
    report = siege.report()
    assert not report["holds"]
    assert report["fault_count"] == 6
    siege.memory[siege.spared] = [(float(at), 100_000_000 + at * 10_000) for at in range(0, 3600, 60)]
    assert siege.report()["memory"]["worker"]["growth"] > 0.1
    assert [fault["kind"] for fault in siege.report()["faults"]][-1] == "memory grows"


async def test_for_some_seconds_all_holds(tmp_path: Path) -> None:
    siege = Siege(
        f"sqlite:///{tmp_path / 'gapless.db'}",
        tmp_path,
        seed=SEED,
        seconds=WAIT_S,
        share_max=1.0,
        kept_s=30.0,
        kill_every_s=SIEGE_S / 2,
        workers=2,
        end_s=1.0,
        popen=Popen,
    )

    async def end() -> None:
        await asyncio.sleep(SIEGE_S)
        counts = siege.tally.counts
        await until(lambda: counts["kills"] and counts["readers exact"], "a worker is killed, and a reader exact")
        siege.ending.set()

    try:
        await asyncio.to_thread(siege.start)
        ending = asyncio.create_task(end())
        await siege.run(attackers.ALL)
        ending.cancel()
        await asyncio.to_thread(siege.stop)
    finally:
        siege.server.close()
    report = siege.report()
    assert report["faults"] == [], SEED
    assert report["counts"]["kills"] > 0
    assert report["counts"]["readers exact"] > 0
