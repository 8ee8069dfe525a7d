"""The routes of sessions."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection
from typing import Any

import httpx2
import pytest

from gapless import Runner
from gapless.journals.memory import MemoryStore
from gapless.records import Listing, RunRecord, SessionRecord
from tests.support.agents import Gated

STREAM = {"accept": "text/event-stream"}


async def test_the_life_of_a_session(client: httpx2.AsyncClient):
    created = await client.post("/sessions", json={"id": "s", "state": {"k": 1}})
    assert (created.status_code, created.json()["id"], created.json()["state"]) == (201, "s", {"k": 1})
    assert (await client.post("/sessions")).status_code == 201
    await client.post("/runs", json={"message": "hello\nworld", "session_id": "s"}, headers=STREAM)
    messages = (await client.get("/sessions/s/messages")).json()["messages"]
    assert [(m["role"], m["content"]) for m in messages] == [
        ("user", "hello\nworld"),
        ("assistant", "you said hello\nworld"),
    ]
    assert len({m["metadata"]["run_id"] for m in messages}) == 1
    assert (await client.get("/sessions")).json()["sessions"][0]["id"] == "s"
    assert (await client.delete("/sessions/s")).status_code == 204
    assert (await client.get("/sessions/s")).status_code == 404


async def test_a_new_conversation_is_named_after_its_first_message(client: httpx2.AsyncClient):
    await client.post("/runs", json={"message": "hello\nworld", "session_id": "s"}, headers=STREAM)
    assert (await client.get("/sessions/s")).json()["title"] == "hello"


async def test_an_active_run_is_named_and_keeps_its_session(client_of: Callable[..., Any]):
    agent = Gated()
    client = await client_of(Runner(agent))
    await client.post("/runs", json={"message": "x", "session_id": "s", "run_id": "r"})
    shown = (await client.get("/sessions/s")).json()
    assert (shown["active_run_id"], shown["title"]) == ("r", "x")
    assert shown["active_run_status"] in ("queued", "running")
    refused = await client.delete("/sessions/s")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["run_id"]) == (409, "session_busy", "r")
    agent.let()
    await client.get("/runs/r/events", headers=STREAM)
    assert "active_run_id" not in (await client.get("/sessions/s")).json()


async def test_a_run_that_waits_its_turn_does_not_hide_the_one_before_it(
    client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapless.protocols.vercel.routes.REPLAYED_S", 0)
    agent = Gated("one ", "two")
    client = await client_of(Runner(agent))
    for run_id in ("r", "q"):
        body = {"message": run_id, "session_id": "s", "run_id": run_id, "config": {"on_busy": "queue"}}
        assert (await client.post("/runs", json=body)).status_code == 202
    assert (await client.get("/sessions/s")).json()["active_run_id"] == "r"
    await client.post("/runs/q/cancel")
    await client.get("/runs/q/events", headers=STREAM)
    assert (await client.get("/sessions/s")).json()["active_run_id"] == "r"
    agent.let(3)
    page = await client.get("/vercel/chat/s/stream")
    assert (page.headers["x-run-id"], b"two" in page.content) == ("r", True)
    assert "active_run_id" not in (await client.get("/sessions/s")).json()
    assert (await client.get("/vercel/chat/s/stream")).status_code == 204


async def test_a_session_is_renamed_by_whoever_may_change_it(client_of: Callable[..., Any]):
    asked: list[tuple[str, str]] = []

    def authorize(user: str, action: str, record: RunRecord | SessionRecord) -> bool:
        asked.append((action, record.id))
        return record.id != "read-only" or action == "read"

    agent = Gated()
    client = await client_of(Runner(agent), authorize=authorize)
    for session_id in ("read-only", "s", "newer"):
        await client.post("/sessions", json={"id": session_id})
    await client.post("/runs", json={"message": "x", "session_id": "s", "run_id": "r"})
    await client.post("/sessions", json={"id": "newest"})
    before = [session["id"] for session in (await client.get("/sessions")).json()["sessions"]]
    asked.clear()
    renamed = await client.patch("/sessions/s", json={"title": "Mine"})
    assert (renamed.status_code, renamed.json()["title"], renamed.json()["active_run_id"]) == (200, "Mine", "r")
    assert asked == [("update", "s")]
    assert [session["id"] for session in (await client.get("/sessions")).json()["sessions"]] == before
    agent.let()
    await client.get("/runs/r/events", headers=STREAM)
    assert (await client.get("/sessions/s")).json()["title"] == "Mine"
    for session_id in ("read-only", "nobody"):
        refused = await client.patch(f"/sessions/{session_id}", json={"title": "Mine"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "session_not_found")
    for bad in ({}, {"title": 1}, {"title": "x" * 201}, {"title": "a\u0000"}, {"titel": "x"}):
        assert (await client.patch("/sessions/s", json=bad)).status_code == 422


async def test_a_session_made_ahead_takes_its_title_from_the_first_message(client: httpx2.AsyncClient):
    await client.post("/sessions", json={"id": "s"})
    await client.post("/runs", json={"message": "hello", "session_id": "s"}, headers=STREAM)
    assert (await client.get("/sessions/s")).json()["title"] == "hello"


async def test_a_list_of_sessions_has_a_limit(client: httpx2.AsyncClient):
    for n in range(3):
        await client.post("/sessions", json={"id": f"s{n}"})
    assert len((await client.get("/sessions?limit=2")).json()["sessions"]) == 2
    for bad in ("0", "1001", "x"):
        assert (await client.get("/sessions", params={"limit": bad})).status_code == 422


class Counting(MemoryStore):
    """Counts what it is asked of runs and sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: collections.Counter[str] = collections.Counter()

    async def list_sessions(self, **where: Any) -> Listing[SessionRecord]:
        self.asked["list_sessions"] += 1
        return await super().list_sessions(**where)

    async def list_runs(self, **where: Any) -> Listing[RunRecord]:
        self.asked["list_runs"] += 1
        return await super().list_runs(**where)

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        self.asked["active_runs"] += 1
        return await super().active_runs(session_ids)


async def test_a_list_of_sessions_asks_the_store_twice_however_long_it_is(client_of: Callable[..., Any]):
    store = Counting()
    client = await client_of(Runner(Gated(), store=store))
    for n in range(100):
        await client.post("/sessions", json={"id": f"s{n}"})
    await client.post("/runs", json={"message": "x", "session_id": "s7", "run_id": "r"})
    store.asked.clear()
    sessions = (await client.get("/sessions")).json()["sessions"]
    assert len(sessions) == 100
    assert {s["id"]: s["active_run_id"] for s in sessions if "active_run_id" in s} == {"s7": "r"}
    assert store.asked == {"list_sessions": 1, "active_runs": 1}
