"""Records that another version of Gapless wrote, in a rolling upgrade or after a step back."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gapless import Runner
from gapless.config import RunConfig
from gapless.errors import StoreCorrupt
from gapless.records import RunRecord, decode_run, decode_session, rewrite
from tests.support import waiting
from tests.support.runs import until
from tests.support.waiting import WAIT_S

LATER: dict[str, Any] = {
    "id": "r",
    "session_id": "s",
    "user_id": "anonymous",
    "agent": "echo",
    "message": "hello",
    "created_at": 7,
    "status": "levitating",
    "priority": {"of": "a later version"},
    "error": ["not", "an", "object"],
    "config": {"on_busy": "merge", "timeout": 5.0, "idle_timeout": "long", "budget": 3},
}


def encoded(**changes: Any) -> bytes:
    return msgspec.json.encode(LATER | changes)


def test_what_is_not_known_of_a_run_is_left_out_or_has_its_default() -> None:
    run = decode_run(encoded())
    assert (run.id, run.session_id, run.message, run.created_at, run.error) == ("r", "s", "hello", 7, None)
    assert run.config == RunConfig(timeout=5.0)
    assert decode_run(encoded(config="by hand")).config is None
    session = decode_session(msgspec.json.encode({**LATER, "updated_at": 8, "title": 5, "state": {"k": 1}}))
    assert (session.id, session.updated_at, session.title, session.state) == ("r", 8, "", {"k": 1})


@pytest.mark.parametrize("data", [b"[]", b"no json", encoded(created_at="long ago"), b'{"id": "r"}'])
def test_what_cannot_be_read_at_all_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"malformed|invalid|object|without|Expected"):
        decode_run(data)


def test_what_is_not_known_is_kept_when_the_rest_is_written() -> None:
    run = decode_run(encoded())
    run.ended_at, run.error = 9, {"code": "x", "message": "y"}
    written = msgspec.json.decode(rewrite(encoded(started_at=3), run))
    kept = {name: value for name, value in LATER.items() if name != "status"}
    assert written == kept | {"ended_at": 9, "error": {"code": "x", "message": "y"}}


async def echo(message: str) -> str:
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gapless.db"


@pytest.fixture
async def runner(path: Path) -> AsyncIterator[Runner]:
    async with Runner(echo, store=f"sqlite:///{path}") as runner:
        for number in (1, 2, 3):
            await (await runner.start("hi", run_id=f"r{number}", session_id=f"s{number}")).wait()
        yield runner


def change(path: Path, sql: str, *values: object) -> None:
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    db.execute(sql, values)
    db.close()


@pytest.mark.parametrize("how", ["setting", "record", "status"])
async def test_one_record_of_another_version_hides_no_other(
    runner: Runner, path: Path, client_of: Callable[..., Any], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    client = await client_of(runner)
    if how == "setting":
        later = encoded(id="r2", session_id="s2")
        change(path, "UPDATE runs SET record = ? WHERE id = 'r2'", later)
    elif how == "record":
        change(path, "UPDATE runs SET record = ? WHERE id = 'r2'", b'{"id": "r2", "text": "private"}')
        change(path, "UPDATE sessions SET record = ? WHERE id = 's2'", b'{"id": "s2", "text": "private"}')
    else:
        change(path, "UPDATE runs SET status = 'levitating' WHERE id = 'r2'")
    for _ in range(2):
        answers = {name: await client.get(name) for name in ("/ready", "/runs", "/sessions")}
        assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 200)
        shown = {run["id"] for run in answers["/runs"].json()["runs"]}
        assert shown == ({"r1", "r2", "r3"} if how == "setting" else {"r1", "r3"})
        assert {"s1", "s3"} <= {session["id"] for session in answers["/sessions"].json()["sessions"]}
    if how != "setting":
        with pytest.raises(StoreCorrupt):
            await runner.get_run("r2")
        assert (await client.get("/runs/r2")).status_code == 500
        said = [one for one in caplog.records if one.name == "gapless.sqlite" and "run r2" in one.getMessage()]
        assert len(said) == 1
        assert said[0].levelno == logging.WARNING
        assert "private" not in caplog.text


async def test_a_run_that_cannot_be_read_is_left_to_a_worker_that_can(path: Path) -> None:
    """And so are its events; the other runs of the dead worker are taken over."""
    from gapless.journals.contract import Append
    from gapless.journals.sqlite import SQLiteStore
    from tests.journals.conformance import Clock, Heard

    clock = Clock()
    dead, old, new = (SQLiteStore(path, monotonic=clock) for _ in range(3))
    await dead.open("dead", Heard(dead))
    event = b'{"type":"CUSTOM","name":"x","value":1}'
    for run_id in ("later", "known"):
        run = RunRecord(id=run_id, session_id=run_id, user_id="u", agent="a", message="m", created_at=1)
        await dead.create_run(run, reject_busy=False)
        assert not await dead.append([Append(run_id, 1, [event] * 3)])
    for task in dead._tasks:
        task.cancel()
    dead._bell.silence()
    dead._file.close()
    change(path, "DELETE FROM workers")
    record = sqlite3.connect(path).execute("SELECT record FROM runs WHERE id = 'later'").fetchone()[0]
    change(path, "UPDATE runs SET record = ? WHERE id = 'later'", b'{"id": "later"}')
    await old.open("old", Heard(old))
    assert [run.id for run in await old.take_over(10)] == ["known"]
    assert await old.take_over(10) == []
    await old._log.trim(10_000, 10_000, 0)
    change(path, "UPDATE runs SET record = ? WHERE id = 'later'", record)
    await new.open("new", Heard(new))
    (run,) = await new.take_over(10)
    assert (run.id, run.last_seq) == ("later", 3)
    assert await new.read("later", 0, 10) == [event] * 3
    await old.close()
    await new.close()


@pytest.mark.parametrize("of", ["run", "session"])
async def test_a_record_that_cannot_be_read_any_more_holds_no_other_run_back(
    path: Path, caplog: pytest.LogCaptureFixture, of: str
) -> None:
    """It is changed while its run is under way."""
    go = asyncio.Event()

    async def waits(message: str) -> AsyncIterator[str]:
        yield "a"
        await go.wait()
        yield "b"

    async with Runner(waits, store=f"sqlite:///{path}") as runner:
        bad = await runner.start("hi", run_id="bad", session_id="bad")
        good = await runner.start("hi", run_id="good", session_id="good")
        async with asyncio.timeout(WAIT_S):
            for run in (bad, good):
                await until(run, 2)
            change(path, f"UPDATE {of}s SET record = ? WHERE id = 'bad'", b'{"id": "bad"')
            go.set()
            assert (await good.collect()).text == "ab"
            if of == "session":
                assert (await bad.collect()).text == "ab"
            else:
                with pytest.raises(StoreCorrupt):
                    await runner.get_run("bad")
                given_up = "run bad is given up: run bad: its record cannot be read"
                await waiting.until(lambda: given_up in caplog.text, "it is given up")
            assert (await (await runner.start("hi", run_id="next")).collect()).text == "ab"
