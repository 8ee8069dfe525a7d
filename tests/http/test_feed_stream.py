"""A user's feed over real sockets, on a connection of its own and on a session's."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from gapless import Limits, Runner, create_app
from gapless.agents.base import RunContext
from gapless.errors import StoreUnavailable
from gapless.events import CustomEvent, Event
from gapless.http.feed_stream import FEED
from gapless.testing import serving
from tests.http.test_session_stream import Following, has_read
from tests.support.agents import Gated
from tests.support.over_http import STREAM
from tests.support.runs import ask, echo
from tests.support.waiting import until


class OfFeed(Following):
    @property
    def changes(self) -> list[tuple[str, Any]]:
        return [(frame.id, json.loads(frame.data)) for frame in self.frames if not frame.event]

    @property
    def stands(self) -> dict[str, Any]:
        told = [change["session"] for _, change in self.changes if change["type"] == "session"]
        return {one["id"]: (one.get("active_run_status"), one.get("newest_run_status")) for one in told}

    @property
    def titles(self) -> dict[str, Any]:
        told = [change["session"] for _, change in self.changes if change["type"] == "session"]
        return {one["id"]: one.get("title") for one in told}


class WithFeed(Following):
    """Who reads a session's stream with the feed in it."""

    @property
    def events(self) -> list[tuple[str, Event]]:
        return [one for one in super().events if not (isinstance(one[1], CustomEvent) and one[1].name == FEED)]

    @property
    def fed(self) -> list[Any]:
        told = [json.loads(frame.data) for frame in self.frames if not frame.event]
        return [event["value"] for event in told if event.get("name") == FEED]


async def test_a_feed_tells_what_the_list_has_and_goes_on_from_any_id():
    with serving(create_app(Runner(ask))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            live = OfFeed(url, "/feed")
            await live.until(lambda: live.changes)
            assert live.changes[0][1] == {"type": "reset"}
            assert live.headers["content-type"].startswith("text/event-stream")
            assert live.headers["cache-control"] == "no-cache"
            assert b"\nretry: " in live.body.partition(b"\n\n")[0]
            await client.post("/runs", json={"message": "Héllo\u2028", "run_id": "r", "session_id": "s"})
            await live.until(lambda: live.stands.get("s") == ("waiting", "waiting"))
            (listed,) = (await client.get("/sessions")).json()["sessions"]
            newest = {"newest_run_id": "r", "newest_run_status": "waiting"}
            assert live.changes[-1][1] == {"type": "session", "session": listed | newest}
            assert "\u2028".encode() not in live.body
            await client.post("/runs/r/cancel")
            await live.until(lambda: live.stands["s"] == (None, "cancelled"))
            await client.delete("/sessions/s")
            await live.until(lambda: live.changes[-1][1] == {"type": "deleted", "session_id": "s"})
            for header in (True, False):
                for id, _ in live.changes[:-1]:
                    path = "/feed" if header else f"/feed?after={id}"
                    late = OfFeed(url, path, **({"last-event-id": id} if header else {}))
                    await late.until(functools.partial(getattr, late, "changes"))
                    assert late.changes == live.changes[-1:], "what has become of it, once"
                    await late.leave()
            await live.leave()


async def test_a_sessions_stream_carries_the_feed_too_and_goes_on_with_both():
    gate = Gated("one ", "two ", "three ")

    with serving(create_app(Runner(gate))) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            for id in ("s", "other"):
                await client.post("/sessions", json={"id": id})
            plain, live = WithFeed(url), WithFeed(url, "/sessions/s/events?feed=1")
            await live.until(lambda: live.fed)
            assert live.fed[0]["type"] == "reset"
            await client.post("/runs", json={"message": "go", "run_id": "r", "session_id": "s"})
            gate.let(1)
            await live.until(lambda: live.events and "one" in str(live.events[-1]))
            # In the middle of an answer, as nothing is said, another conversation begins.
            await client.post("/sessions", json={"id": "new"})
            await live.until(lambda: live.fed[-1].get("session", {}).get("id") == "new")
            cursor, (place, _) = live.fed[-1]["cursor"], live.events[-1]
            await live.leave()
            await client.delete("/sessions/other")
            gate.let(3)
            again = WithFeed(url, f"/sessions/s/events?feed={cursor}&merge=0", **{"last-event-id": place})
            await again.until(lambda: again.news and not again.news[-1]["runs"])
            await again.until(lambda: again.fed and again.fed[-1].get("session", {}).get("id") == "s")
            assert {"type": "deleted", "session_id": "other", "cursor": again.fed[0]["cursor"]} in again.fed
            assert all(one["type"] != "reset" for one in again.fed)
            await again.until(lambda: has_read(again, "r:7"))
            await plain.until(lambda: has_read(plain, "r:7"))
            assert plain.events == live.events + again.events
            assert len({frame.id for frame in again.frames}) == len(again.frames), "readers know a frame by its id"
            assert plain.fed == [], "who does not ask for it"
            for one in (plain, again):
                await one.leave()


def by_header(request: HTTPConnection) -> str | None:
    return request.headers.get("x-user")


async def test_a_feed_is_of_who_asks_and_of_nobody_else():
    with serving(create_app(Runner(echo), authenticate=by_header)) as url:
        async with httpx2.AsyncClient(base_url=url, headers={"x-user": "b"}) as client:
            assert (await client.get("/feed", headers={"x-user": ""})).status_code == 401
            mine, theirs = OfFeed(url, "/feed", **{"x-user": "a"}), OfFeed(url, "/feed", **{"x-user": "b"})
            await mine.until(lambda: mine.changes)
            await theirs.until(lambda: theirs.changes)
            await client.post("/sessions", json={"id": "of-b"})
            await client.post("/sessions", json={"id": "of-a"}, headers={"x-user": "a"})
            await mine.until(lambda: mine.stands)
            await theirs.until(lambda: theirs.stands)
            assert [*mine.stands, *theirs.stands] == ["of-a", "of-b"]
            own = await client.get("/sessions/of-a/events?feed=1", headers=STREAM)
            assert own.status_code == 404, "nor by a session's stream"
            for one in (mine, theirs):
                await one.leave()


async def test_operators_are_told_which_of_all_users_sessions_have_changed_and_nobody_else_is():
    app = create_app(Runner(echo), authenticate=by_header, operators=["o"])
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url, headers={"x-user": "a"}) as client:
            refused = await client.get("/feed?everyone=1")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_authorized")
            live, own = (OfFeed(url, path, **{"x-user": "o"}) for path in ("/feed?everyone=1", "/feed"))
            await live.until(lambda: live.changes)
            await own.until(lambda: own.changes)
            for user in ("a", "b"):
                await client.post("/sessions", json={"id": f"of-{user}"}, headers={"x-user": user})
            await live.until(lambda: len(live.changes) > 2)
            said = [change for _, change in live.changes]
            assert said == [{"type": "reset"}, *({"type": "changed", "session_id": f"of-{u}"} for u in "ab")]
            before = len(live.changes)
            await client.patch("/sessions/of-a", json={"title": "new"})
            await live.until(lambda: len(live.changes) > before)
            assert live.changes[-1][1]["session_id"] == "of-a", "again, though as little is said of it as before"
            late = OfFeed(url, f"/feed?everyone=1&after={live.changes[0][0]}", **{"x-user": "o"})
            await late.until(lambda: len(late.changes) == 2)
            assert [change["session_id"] for _, change in late.changes] == ["of-b", "of-a"]
            assert len(own.changes) == 1
            for one in (live, own, late):
                await one.leave()


async def test_an_operator_follows_a_session_and_the_sessions_of_all_on_one_connection():
    """It is the same feed, so its cursors are."""
    gate = Gated("one ", "two ", "three ")
    app = create_app(Runner(gate), authenticate=by_header, operators=["o"])

    def told(one: WithFeed) -> set[str]:
        return {change["session_id"] for change in one.fed if change["type"] == "changed"}

    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url, headers={"x-user": "a"}) as client:
            await client.post("/runs", json={"message": "go", "run_id": "r", "session_id": "s"})
            path = "/sessions/s/events?feed={}&everyone=1"
            for user, answered in (
                ("a", (403, "not_authorized")),
                ("b", (404, "session_not_found")),
                ("", (401, None)),
            ):
                refused = await client.get(path.format(1), headers={**STREAM, "x-user": user})
                code = refused.json()["error"]["code"] if answered[1] else None
                assert (refused.status_code, code) == answered
            alone = OfFeed(url, "/feed?everyone=1", **{"x-user": "o"})
            live = WithFeed(url, path.format(1), **{"x-user": "o"})
            await live.until(lambda: live.fed)
            assert live.fed[0]["type"] == "reset"
            gate.let(1)
            await live.until(lambda: live.events and "one" in str(live.events[-1]))
            for user in ("a", "b"):
                await client.post("/sessions", json={"id": f"of-{user}"}, headers={"x-user": user})
            await live.until(lambda: {"of-a", "of-b"} <= told(live))
            assert {one["type"] for one in live.fed[1:]} == {"changed"}
            place, _ = live.events[-1]
            cursors = {one.get("session_id"): one["cursor"] for one in live.fed}
            await live.leave()
            await alone.until(lambda: len(alone.changes) >= len(live.fed))
            assert cursors.items() <= {change.get("session_id"): cursor for cursor, change in alone.changes}.items()
            await client.post("/sessions", json={"id": "last"})
            gate.let(3)
            headers = {"x-user": "o", "last-event-id": place}
            again = WithFeed(url, f"{path.format(cursors['of-a'])}&merge=0", **headers)
            await again.until(lambda: has_read(again, "r:7") and {"of-b", "last"} <= told(again))
            assert "of-a" not in told(again), "what came behind the cursor"
            assert all(one["type"] == "changed" for one in again.fed)
            assert [id for id, _ in live.events + again.events] == [f"r:{n}" for n in range(1, 8)]
            for one in (alone, again):
                await one.leave()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("feed=1", "?feed=1"),
        ("feed=a-2&merge=0", "?merge=0&feed=1"),
        ("feed=1&everyone=1", "?feed=1&everyone=1"),
    ],
)
async def test_a_sessions_stream_with_the_feed_names_where_it_goes_on_with_the_feed(query: str, named: str):
    app, operator = create_app(Runner(echo), authenticate=by_header, operators=["o"]), {"x-user": "o"}
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url, headers=operator) as client:
            await client.post("/sessions", json={"id": "s"})
            one = WithFeed(url, f"/sessions/s/events?{query}", **operator)
            await one.until(lambda: one.fed)
            await one.leave()
            assert one.headers["content-location"] == one.headers["location"] == f"/sessions/s/events{named}"
            again = WithFeed(url, one.headers["content-location"], **operator, **{"last-event-id": one.frames[-1].id})
            await again.until(lambda: again.fed)
            assert again.fed[0]["type"] == "reset"
            await again.leave()


async def test_a_feed_has_so_many_followers_is_counted_and_sent_elsewhere_when_the_server_leaves():
    runner = Runner(echo, limits=Limits(followers_per_run_max=1))
    app = create_app(runner)
    with serving(app) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            one = OfFeed(url, "/feed")
            await one.until(lambda: one.changes)
            assert runner.metrics.followers == 1
            assert (await client.get("/feed")).status_code == 429
            await client.post("/sessions", json={"id": "s"})
            assert (await client.get("/sessions/s/events?feed=1")).status_code == 429
            await one.until(lambda: one.stands)
            runner.call_soon(app.state.streams.drain)
            await one.end()
            assert one.frames[-1].event == "reconnect"
            assert one.frames[-1].id == one.changes[-1][0]
            await until(lambda: runner.metrics.followers == 0, "nobody is counted any more")


@pytest.mark.parametrize("path", ["/feed", "/sessions/s/events?feed=1"])
async def test_a_store_that_cannot_be_watched_is_a_status(path: str, monkeypatch: pytest.MonkeyPatch):
    runner = Runner(echo)

    async def watch_user(user_id: str) -> None:
        raise StoreUnavailable("the store is away")

    with serving(create_app(runner)) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            await client.post("/sessions", json={"id": "s"})
            monkeypatch.setattr(runner.store, "watch_user", watch_user)
            answer = await client.get(path, headers=STREAM)
            assert answer.status_code == 503
            assert "away" in answer.text
            assert runner.metrics.followers == 0
            assert not runner.worker.conversations.followers_of("s")


async def test_who_reads_slowly_is_told_of_each_session_once_as_it_is_then():
    """A burst of changes while nothing is read costs the feed one row a session."""

    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        yield "word"

    runner = Runner(agent)
    with serving(create_app(runner)) as url:
        async with httpx2.AsyncClient(base_url=url) as client:
            live = OfFeed(url, "/feed")
            await live.until(lambda: live.changes)
            for n in range(3):
                await client.post("/sessions", json={"id": f"s{n}"})
            for n in range(3, 30):
                await client.patch(f"/sessions/s{n % 3}", json={"title": f"t{n}"})
            await live.until(lambda: live.titles == {"s0": "t27", "s1": "t28", "s2": "t29"})
            late = OfFeed(url, f"/feed?after={live.changes[0][0]}")
            await late.until(lambda: len(late.changes) == 3)
            assert sorted(one["session"]["title"] for _, one in late.changes) == ["t27", "t28", "t29"]
            for one in (live, late):
                await one.leave()
