"""The response that follows a session, over real sockets: run after run on one connection, by a run's own rules."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httpx2
import pytest

from gapless import Limits, Runner, create_app
from gapless.errors import StoreCorrupt
from gapless.events import CustomEvent, Event, decode_event
from gapless.fold import SESSION
from gapless.http.session_stream import SessionDelivery, SessionStream
from gapless.http.stream import Delivery, Streams
from gapless.protocols.ag_ui.wire import SessionAGUIEncoder
from gapless.runs.conversations import SessionPlace
from gapless.testing import serving
from tests.http.test_direct import Taken, lasts, read_until
from tests.http.test_stream import unchunked
from tests.support.agents import Gated
from tests.support.over_http import STREAM
from tests.support.runs import echo
from tests.support.sse import Frame, frames
from tests.support.waiting import WAIT_S, until
from tests.support.writes import Writes


def told(body: bytes) -> list[tuple[str, Event]]:
    """What a client that reads the frames of a body knows."""
    return [(frame.id, decode_event(frame.data.encode())) for frame in frames(body) if not frame.event]


def is_news(event: Event) -> bool:
    return isinstance(event, CustomEvent) and event.name == SESSION


def has_read(follower: Following, id: str) -> bool:
    return bool(follower.events) and follower.events[-1][0] == id


class Following:
    """Somebody who reads a session's stream over HTTP, in a task."""

    def __init__(self, url: str, path: str = "/sessions/s/events", **headers: str) -> None:
        self.body = b""
        self.status = 0
        self.headers = httpx2.Headers()
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._read(url + path, headers))

    async def _read(self, url: str, headers: dict[str, str]) -> None:
        async with (
            httpx2.AsyncClient(timeout=WAIT_S) as client,
            client.stream("GET", url, headers={**STREAM, **headers}) as response,
        ):
            self.status, self.headers = response.status_code, response.headers
            async for piece in response.aiter_bytes():
                self.body += piece
                self._more.set()

    @property
    def frames(self) -> list[Frame]:
        return frames(self.body)

    @property
    def events(self) -> list[tuple[str, Event]]:
        return [(id, event) for id, event in told(self.body) if not is_news(event)]

    @property
    def news(self) -> list[Any]:
        return [event.value for _, event in told(self.body) if isinstance(event, CustomEvent) and is_news(event)]

    async def until(self, happened: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not happened():
                assert not self._task.done(), self.body
                self._more.clear()
                waiting = asyncio.ensure_future(self._more.wait())
                await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()

    async def end(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self._task

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


async def run_to_its_end(client: httpx2.AsyncClient, run_id: str, **body: Any) -> list[tuple[str, Any]]:
    asked = {"message": run_id, "run_id": run_id, "session_id": "s", **body}
    assert (await client.post("/runs", json=asked)).status_code == 202
    await client.get(f"/runs/{run_id}/events", headers=STREAM)
    page = (await client.get(f"/runs/{run_id}/events", headers={"accept": "application/json"})).json()
    return [(f"{run_id}:{seq}", event) for seq, event in enumerate(page["events"], 1)]


async def test_one_connection_carries_run_after_run_and_goes_on_after_every_frame():
    with serving(create_app(Runner(echo))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/sessions", json={"id": "s"})
            live = Following(url)
            await live.until(lambda: live.news)
            whole = []
            for n in range(3):
                whole += await run_to_its_end(client, f"r{n}")
            await live.until(lambda: len(live.events) == len(whole) and not live.news[-1]["runs"])
            assert [(f.id, json.loads(f.data)) for f in live.frames if SESSION not in f.data] == whole
            assert live.headers["content-type"].startswith("text/event-stream")
            assert live.headers["x-accel-buffering"] == "no"
            assert live.headers["cache-control"] == "no-cache"
            assert live.headers["content-location"] == "/sessions/s/events"
            assert len({f.id for f in live.frames}) == len(live.frames), "readers know a frame by its id"
            assert b"\nretry: " in live.body.partition(b"\n\n")[0]
            for at in range(0, len(whole), 3):
                rest = live.events[at + 1 :]
                late = Following(url, f"/sessions/s/events?after={whole[at][0]}&merge=0")
                await late.until(functools.partial(has_read, late, whole[-1][0]))
                assert late.events == rest
                await late.leave()
            by_header = Following(url, "/sessions/s/events?merge=0", **{"last-event-id": whole[-2][0]})
            await by_header.until(lambda: by_header.events)
            assert by_header.events == live.events[-1:]
            assert by_header.headers["content-location"] == "/sessions/s/events?merge=0"
            await by_header.leave()
            assert (await client.delete("/sessions/s")).status_code == 204
            await live.end()
            assert live.body.endswith(f"event: end\nid: {whole[-1][0]}.end\n\n".encode())


async def test_who_is_behind_gets_deltas_merged_and_who_asks_gets_them_as_they_are():
    async def words(message: str) -> AsyncIterator[str]:
        for n in range(200):
            yield f"{n} "

    with serving(create_app(Runner(words))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            whole = await run_to_its_end(client, "r")
        merged, plain = Following(url), Following(url, "/sessions/s/events?merge=0")
        for follower in (merged, plain):
            await follower.until(functools.partial(has_read, follower, whole[-1][0]))
            assert "".join(getattr(event, "delta", "") for _, event in follower.events) == "".join(
                f"{n} " for n in range(200)
            )
            await follower.leave()
        assert len(plain.events) == len(whole)
        assert len(merged.events) < 10


async def test_a_page_of_a_sessions_events_and_the_next(client: httpx2.AsyncClient):
    whole = [one for n in range(3) for one in await run_to_its_end(client, f"r{n}")]
    asked = {"accept": "application/json"}
    for limit in (1, 4, 7, 1000):
        read: list[Any] = []
        after = "0"
        while after is not None:
            page = (await client.get(f"/sessions/s/events?limit={limit}&after={after}", headers=asked)).json()
            assert len(page["events"]) <= limit
            assert page["session_id"] == "s"
            read += page["events"]
            after = page["next"]
        assert [(one["id"], one["event"]) for one in read] == whole
        assert {one["run_id"] for one in read} == {"r0", "r1", "r2"}


async def test_a_session_is_read_by_whom_it_belongs_to_and_places_are_its_own(client_of: Callable[..., Any]):
    client = await client_of(Runner(echo), authenticate=lambda request: request.headers.get("x-user"))
    mine, others = {"x-user": "me"}, {"x-user": "other"}
    for user, session_id in ((mine, "s"), (others, "theirs")):
        body = {"message": "x", "session_id": session_id, "run_id": f"of-{session_id}"}
        await client.post("/runs", json=body, headers=user | STREAM)
    for session_id, user in (("s", others), ("nobody's", mine)):
        refused = await client.get(f"/sessions/{session_id}/events", headers=user | STREAM)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "session_not_found")
    assert (await client.get("/sessions/s/events", headers=STREAM)).status_code == 401
    for bad in ("x", "of-theirs:1", "of-s:999", "1"):
        refused = await client.get(f"/sessions/s/events?after={bad}", headers=mine | STREAM)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "cursor_invalid"), bad


async def test_a_session_has_as_many_followers_as_a_run():
    runner = Runner(echo, limits=Limits(followers_per_run_max=2))
    with serving(create_app(runner)) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/sessions", json={"id": "s"})
            followers = [Following(url) for _ in range(2)]
            for follower in followers:
                await follower.until(functools.partial(getattr, follower, "news"))
            refused = await client.get("/sessions/s/events", headers=STREAM)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "limit_reached")
            await followers[0].leave()
            await until(lambda: runner.worker.conversations.followers_of("s") == 1, "it is noticed")
            another = Following(url)
            await another.until(lambda: another.news)
            for follower in (followers[1], another):
                await follower.leave()


async def test_a_silent_session_is_kept_alive_between_its_runs_and_in_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.http.stream.PING_S", 0.02)
    agent = Gated("a")
    with serving(create_app(Runner(agent))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/sessions", json={"id": "s"})
            follower = Following(url)
            await follower.until(lambda: follower.body.count(b": ping\n") >= 3)
            await client.post("/runs", json={"message": "x", "session_id": "s", "run_id": "r"})
            await follower.until(lambda: follower.news[-1]["runs"])
            before = follower.body.count(b": ping\n")
            await follower.until(lambda: follower.body.count(b": ping\n") >= before + 3)
            agent.let(2)
            await follower.until(lambda: not follower.news[-1]["runs"])
            assert b": ping\n\n" not in follower.body
            follower.body = follower.body.replace(b": ping\n", b"")
            assert [event.delta for _, event in follower.events if hasattr(event, "delta")] == ["a"]
            await follower.leave()


@pytest.mark.parametrize("running", [False, True])
async def test_draining_ends_the_connection_and_says_where_to_go_on(running: bool):
    agent = Gated("a")
    app = create_app(Runner(agent))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/sessions", json={"id": "s"})
            follower = Following(url)
            await follower.until(lambda: follower.news)
            place = b"0"
            if running:
                await client.post("/runs", json={"message": "x", "session_id": "s", "run_id": "r"})
                agent.let()
                await follower.until(lambda: b'"a"' in follower.body)
                place = b"r:3"
            app.state.runner.journals.loop.call_soon_threadsafe(app.state.streams.drain)
            await follower.end()
            assert follower.body.endswith(b"event: reconnect\ndata: {}\nid: %b\n\n" % place)
            agent.let(2)


async def test_a_client_that_leaves_is_noticed_and_nothing_of_it_stays():
    app = create_app(Runner(Gated("a")))
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/runs", json={"message": "x", "session_id": "s", "run_id": "r"})
            follower = Following(url)
            await follower.until(lambda: follower.events)
            await follower.leave()
            await until(lambda: not app.state.streams.open, "it is noticed")
            await until(lambda: not app.state.runner.worker.conversations._watched, "and the session let go")
            assert (await client.get("/runs/r")).json()["status"] == "running"
            app.state.runner.journals.loop.call_soon_threadsafe(app.state.runner.agents["gated"].let, 2)


class HeldClient:
    """Reads a session's stream up to a piece with this in it, and on once it may."""

    def __init__(self, piece: bytes) -> None:
        self.body, self._piece = b"", piece
        self.writing, self.go_on = asyncio.Event(), asyncio.Event()

    async def send(self, message: Any) -> None:
        body = message.get("body", b"")
        self.body += body
        if self._piece in body:
            self.writing.set()
            await self.go_on.wait()

    async def receive(self) -> Any:
        await asyncio.Event().wait()


async def test_news_that_come_while_something_is_written_are_told_though_nothing_follows():
    agent = Gated("a")
    runner = Runner(agent)
    async with runner:
        await runner.start("x", session_id="s", run_id="r")
        client = HeldClient(b'"a"')
        delivery = SessionDelivery(runner, Streams(), "s", SessionAGUIEncoder, SessionPlace(), merge=True)
        task = asyncio.create_task(SessionStream(delivery, location="/").stream(client.receive, client.send))
        await until(lambda: b'"running"' in client.body, "all else is told")
        agent.let()
        await asyncio.wait_for(client.writing.wait(), WAIT_S)
        await runner.rename_session("s", "while it writes")
        await until(lambda: delivery.follower.version > delivery.follower.told, "it is known")
        client.go_on.set()
        await until(lambda: b"while it writes" in client.body, "it is told")
        task.cancel()
        await asyncio.wait({task})
        agent.let(2)


async def test_a_session_that_is_followed_live_needs_no_task_and_its_connection_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
):
    writes, agent = Writes(monkeypatch), Gated("one", "two")
    app = create_app(Runner(agent))
    runner, received = app.state.runner, bytearray()

    def is_left_alone(run_id: str) -> bool:
        journal = runner.journals._journals.get(run_id)
        streams = app.state.streams
        return bool(streams._lasting.due) and journal is not None and bool(journal._live) and not streams._tasks

    with serving(app) as url, socket.socket() as client:
        client.settimeout(WAIT_S)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        async with httpx2.AsyncClient(base_url=url) as other:
            await other.post("/sessions", json={"id": "s"})
            client.sendall(b"GET /sessions/s/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
            for run_id in ("r0", "r1"):
                asked = {"message": "x", "session_id": "s", "run_id": run_id}
                (await other.post("/runs", json=asked)).raise_for_status()
                await until(functools.partial(is_left_alone, run_id), "nobody waits for it")
                agent.let()
                read_until(client, received, b"id: %b:3\n\n" % run_id.encode())
                assert writes.has("one"), "where it was accepted"
                writes.pieces.clear()
                await other.patch("/sessions/s", json={"title": f"during {run_id}"})
                read_until(client, received, f"during {run_id}".encode())
                await until(functools.partial(is_left_alone, run_id), "and it is followed live again")
                agent.let(2)
                read_until(client, received, b"id: %b:6\n\n" % run_id.encode())
            await other.delete("/sessions/s")
            read_until(client, received, b"event: end\nid: r1:6.end\n\n\r\n0\r\n\r\n")
            whole = [event for _, event in told(unchunked(bytes(received))) if not is_news(event)]
            assert "".join(getattr(event, "delta", "") for event in whole) == "onetwo" * 2
            del received[:]
            client.sendall(b"GET /sessions/s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            read_until(client, received, b"HTTP/1.1 404")
    assert not app.state.streams.open


def held_attach(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Have whoever attaches to a run wait then; set once somebody does, and to be set for it to go on."""
    attach, attached, go_on = Delivery.attach, threading.Event(), threading.Event()

    async def held(delivery: Delivery) -> None:
        await attach(delivery)
        attached.set()
        await asyncio.to_thread(go_on.wait, WAIT_S)

    monkeypatch.setattr(Delivery, "attach", held)
    return attached, go_on


async def test_a_client_that_leaves_while_a_run_is_looked_for_is_noticed_before_the_run_ends(
    monkeypatch: pytest.MonkeyPatch,
):
    agent = Gated("a")
    app = create_app(Runner(agent))
    looks, go_on = held_attach(monkeypatch)
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/sessions", json={"id": "s"})
            follower = Following(url)
            await follower.until(lambda: follower.news)
            (delivery,) = app.state.streams.open
            await client.post("/runs", json={"message": "x", "session_id": "s", "run_id": "r"})
            assert await asyncio.to_thread(looks.wait, WAIT_S)
            await follower.leave()
            await until(lambda: delivery._gone, "the server hears of it")
            go_on.set()
            await until(lambda: not app.state.streams.open, "it is closed")
            assert (await client.get("/runs/r")).json()["status"] == "running"
            app.state.runner.journals.loop.call_soon_threadsafe(agent.let, 2)


async def test_a_change_that_comes_while_a_delivery_is_closed_is_told_to_nobody():
    async with Runner(echo) as runner:
        await runner.create_session("s")
        delivery = SessionDelivery(runner, Streams(), "s", SessionAGUIEncoder, SessionPlace(), merge=True)

        class Part:
            async def detach(self) -> None:
                delivery.follower.changed()

            def nudge(self) -> None: ...

        await delivery.open()
        delivery._part = cast(Any, Part())
        await delivery.close()
        assert delivery._again is None, "it would look for ever"


async def test_an_answer_that_comes_to_last_while_a_run_is_looked_for_is_taken_with_that_run(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("gapless.http.stream.LASTS_S", 3600.0)
    taken, agent = Taken(monkeypatch), Gated("a")
    app = create_app(Runner(agent))
    looks, go_on = held_attach(monkeypatch)
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/sessions", json={"id": "s"})
            follower = Following(url)
            await follower.until(lambda: follower.news)
            await client.post("/runs", json={"message": "x", "session_id": "s", "run_id": "r"})
            assert await asyncio.to_thread(looks.wait, WAIT_S)
            await lasts(app)
            go_on.set()
            await until(lambda: taken.connections, "it is taken")
            app.state.runner.journals.loop.call_soon_threadsafe(agent.let, 2)
            await follower.until(lambda: follower.events and not follower.news[-1]["runs"])
            await follower.leave()


async def test_nobody_is_asked_again_and_again_to_tell_of_a_session_that_is_gone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapless.http.session_stream.NEWS_AGAIN_S", 0.001)
    async with Runner(echo) as runner:
        await runner.create_session("s")
        delivery = SessionDelivery(runner, Streams(), "s", SessionAGUIEncoder, SessionPlace(), merge=True)

        class Part:
            async def detach(self) -> None: ...

            def nudge(self) -> None: ...

        await delivery.open()
        delivery._part = cast(Any, Part())
        await runner.delete_session("s")
        await until(lambda: delivery.follower.gone, "it is known")
        await until(lambda: delivery._again is None, "there is nothing more to tell")
        await delivery.close()


async def test_a_stream_whose_session_is_deleted_before_its_client_has_read_on_ends():
    async def words(message: str) -> AsyncIterator[str]:
        for n in range(2000):
            yield f"{n} "

    async with Runner(words) as runner:
        await (await runner.start("x", session_id="s", run_id="r")).wait()
        client = HeldClient(b"RUN_STARTED")
        delivery = SessionDelivery(runner, Streams(), "s", SessionAGUIEncoder, SessionPlace(), merge=False)
        task = asyncio.create_task(SessionStream(delivery, location="/").stream(client.receive, client.send))
        await asyncio.wait_for(client.writing.wait(), WAIT_S)
        await runner.delete_session("s")
        await until(lambda: delivery.follower.gone, "it is known")
        client.go_on.set()
        await asyncio.wait_for(task, WAIT_S)
        last = frames(client.body)[-1]
        assert (last.event, last.id) == ("end", frames(client.body)[-2].id + ".end")
        assert runner.metrics.followers == 0


async def test_a_run_that_cannot_be_read_is_not_asked_for_again_at_once(monkeypatch: pytest.MonkeyPatch):
    runner = Runner(echo)
    with serving(create_app(runner)) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await run_to_its_end(client, "r")

        async def read(*asked: Any) -> list[bytes]:
            raise StoreCorrupt("run r: its events are gone", run_id="r")

        monkeypatch.setattr(runner.store, "read", read)
        follower = Following(url)
        await follower.end()
        assert [is_news(event) for _, event in told(follower.body)] == [True], "which is new with each connection"
        assert [frame.event for frame in follower.frames] == [""], "and nothing that has it come back at once"
        await until(lambda: runner.metrics.followers == 0, "it is closed")
