"""The routes of runs, as a client sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import msgspec
import pytest

from gapless import Limits, RunConfig, Runner
from gapless.agents.base import RunContext
from gapless.events import Interrupt, TextMessageContentEvent, TokenUsage, UserMessage, text_of
from tests.support.agents import Gated
from tests.support.agui import check_order
from tests.support.over_http import STREAM, ended, start
from tests.support.sse import events, frames


async def test_start_answers_with_the_record_and_names_the_stream(client: httpx2.AsyncClient):
    response = await client.post("/runs", json={"message": "hi", "run_id": "r", "session_id": "s"})
    assert response.status_code == 202
    assert response.headers["content-location"] == "/runs/r/events"
    assert response.headers["x-run-id"] == "r"
    record = response.json()
    assert (record["id"], record["session_id"], record["message"]) == ("r", "s", "hi")
    assert not {"owner", "digest", "input", "config"} & record.keys()
    assert (await ended(client, "r"))["status"] == "finished"


async def test_the_streams_name_says_how_it_was_asked_for(client: httpx2.AsyncClient):
    """So that a client that goes on there gets the same encoding and the same bytes."""
    asked = {"wire": "text", "merge": "0"}
    started = await client.post("/runs", json={"message": "hi", "run_id": "r"}, params=asked)
    followed = await client.get("/runs/r/events", params=asked, headers=STREAM)
    for response in (started, followed):
        assert response.headers["content-location"] == "/runs/r/events?wire=text&merge=0"


async def test_start_as_a_stream_is_the_events_to_the_end_marker(client: httpx2.AsyncClient):
    response = await client.post("/runs", json={"message": "hi", "run_id": "r"}, headers=STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["content-location"] == "/runs/r/events"
    got = events(response.content)
    check_order(got)
    assert "".join(e.delta for e in got if isinstance(e, TextMessageContentEvent)) == "you said hi"
    assert response.content.count(b"retry:") == 1
    assert b"\nretry: " in response.content.partition(b"\n\n")[0]


async def test_each_delta_of_a_live_stream_comes_as_it_is(client_of: Callable[..., Any]):
    agent = Gated("a", "b", "c")
    client = await client_of(Runner(agent))
    reading = asyncio.create_task(client.post("/runs", json={"message": "x"}, headers=STREAM))
    for _ in range(4):
        await agent.started.wait()
        agent.let()
    got = events((await reading).content)
    assert [e.delta for e in got if isinstance(e, TextMessageContentEvent)] == ["a", "b", "c"]


async def test_an_expired_journal_has_its_own_answer(client_of: Callable[..., Any]):
    async def agent(message: str) -> str:
        return "x"

    runner = Runner(agent)
    client = await client_of(runner)
    await start(client, run_id="r")
    record = await ended(client, "r")
    await runner.store.expire(record["ended_at"] + 1)
    response = await client.get("/runs/r/events", headers=STREAM)
    assert (response.status_code, response.json()["error"]["code"]) == (410, "cursor_expired")
    assert (await client.get("/runs/r")).json()["status"] == "finished"


async def test_starting_twice_is_one_run_and_another_body_a_conflict(client: httpx2.AsyncClient):
    first = await start(client, run_id="r", session_id="s")
    again = await client.post("/runs", json={"message": "hi", "run_id": "r", "session_id": "s"}, headers=STREAM)
    assert events(again.content)
    assert (await client.get("/runs")).json()["runs"][0]["id"] == first["id"]
    assert len((await client.get("/runs")).json()["runs"]) == 1
    other = await client.post("/runs", json={"message": "other", "run_id": "r", "session_id": "s"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "run_conflict")


async def test_cancel_is_idempotent(client_of: Callable[..., Any]):
    agent = Gated("shown")
    client = await client_of(Runner(agent))
    agent.let()
    await start(client, run_id="r")
    await agent.waits_for(1)
    for _ in range(2):
        assert (await client.post("/runs/r/cancel")).status_code == 202
    record = await ended(client, "r")
    assert (record["status"], record["error"]["code"]) == ("cancelled", "run_cancelled")


async def test_an_interrupt_ends_the_stream_and_its_answer_goes_on(client_of: Callable[..., Any]):
    async def ask(ctx: RunContext) -> AsyncIterator[str]:
        yield "may I? "
        (entry,) = await ctx.interrupt([Interrupt(id="i", reason="approval")])
        yield entry.payload["word"]

    client = await client_of(Runner(ask))
    first = await client.post("/runs", json={"message": "x", "run_id": "r"}, headers=STREAM)
    first_frames = frames(first.content)
    assert '"interrupt"' in first_frames[-2].data
    assert first_frames[-1].event == "end"
    record = (await client.get("/runs/r")).json()
    assert (record["status"], [interrupt["id"] for interrupt in record["interrupts"]]) == ("waiting", ["i"])
    wrong = await client.post("/runs/r/input", json={"resume": [{"interruptId": "i", "status": "maybe"}]})
    assert wrong.status_code == 422
    for unfit, why in (({}, ""), ({"answer": "y"}, "the body does not fit: Object contains unknown field `answer`; ")):
        refused = (await client.post("/runs/r/input", json=unfit)).json()["error"]
        assert refused["message"].startswith(why + 'send either {"resume": [{"interruptId": ')
    for resume in ([], [{"interruptId": "other", "status": "cancelled"}]):
        ignored = await client.post("/runs/r/input", json={"resume": resume})
        assert (ignored.status_code, ignored.json()["error"]["code"]) == (422, "input_invalid")
        assert ignored.json()["error"]["message"] == "run r is waiting, it waits for answers to i"
    entry = {"interruptId": "i", "status": "resolved", "payload": {"word": "yes"}}
    assert (await client.post("/runs/r/input", json={"resume": [entry]})).status_code == 202
    rest = await client.get("/runs/r/events", headers={**STREAM, "last-event-id": first_frames[-1].id})
    assert [e.delta for e in events(rest.content) if isinstance(e, TextMessageContentEvent)] == ["yes"]
    late = await client.post("/runs/r/input", json={"resume": [entry]})
    assert (late.status_code, late.json()["error"]["code"]) == (422, "input_invalid")


async def test_lists_are_filtered(client: httpx2.AsyncClient):
    for n in range(3):
        await start(client, run_id=f"r{n}", session_id=f"s{n % 2}")
        await ended(client, f"r{n}")
    assert [run["id"] for run in (await client.get("/runs?session_id=s0")).json()["runs"]] == ["r2", "r0"]
    assert [run["id"] for run in (await client.get("/runs?status=finished&limit=1")).json()["runs"]] == ["r2"]
    assert (await client.get("/runs?status=failed")).json()["runs"] == []
    for bad in ("status=nonsense", "limit=0", "limit=1001", "limit=1_0", "limit=" + "9" * 5000):
        assert (await client.get(f"/runs?{bad}")).status_code == 422, bad[:20]


BAD_BODIES = [
    ({"content": b"{"}, 422, "input_invalid"),
    ({"content": b"\xff"}, 422, "input_invalid"),
    ({"json": {}}, 422, "input_invalid"),
    ({"json": {"message": ""}}, 422, "input_invalid"),
    ({"json": {"message": 5}}, 422, "input_invalid"),
    ({"json": {"message": "x", "colour": "red"}}, 422, "input_invalid"),
    ({"json": {"message": "x", "config": {"timeout": -1}}}, 422, "input_invalid"),
    ({"content": b'{"message":"x","colour":' + b"[" * 500 + b"]" * 500 + b"}"}, 422, "input_invalid"),
    ({"content": b'{"message":' + b"[" * 1900}, 422, "input_invalid"),
    ({"json": {"message": "x", "config": {"on_busy": "shrug"}}}, 422, "input_invalid"),
    ({"json": {"message": "x", "run_id": "a b"}}, 422, "input_invalid"),
    ({"json": {"message": "x", "agent": "nobody"}}, 404, "agent_not_found"),
    ({"json": {"message": "x" * 3000}}, 413, "input_too_large"),
    ({"content": b"message=x", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
]


@pytest.mark.parametrize(("request_", "status", "code"), BAD_BODIES)
async def test_bad_bodies(client_of: Callable[..., Any], request_: dict[str, Any], status: int, code: str):
    async def agent(message: str) -> str:
        return "x"

    client = await client_of(Runner(agent, limits=Limits(body_bytes_max=2000)), {"content-type": "application/json"})
    response = await client.post("/runs", **request_)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    assert (await client.get("/runs")).json()["runs"] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ag-ui", {"threadId": "t", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "x"}]}),
        ("/vercel/chat", {"id": "c", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text"}]}]}),
        ("/v1/responses", {"input": "x"}),
        ("/sessions", {}),
        ("/apps/words/users/u/sessions/s", {}),
    ],
)
async def test_a_body_that_is_too_deep_to_be_sent_back_is_refused_at_once(
    client: httpx2.AsyncClient, path: str, body: dict[str, Any]
):
    for levels in (101, 950, 100_000):
        deep = json.dumps({**body, "state": "deep"}).replace('"deep"', "[" * levels + "]" * levels)
        response = await client.post(path, content=deep, headers={"content-type": "application/json"})
        assert (response.status_code, "within each other" in response.text) == (422, True), response.text


async def test_a_body_without_length_is_bounded_too(client_of: Callable[..., Any]):
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b" " * 1000

    client = await client_of(Runner(lambda m: m, limits=Limits(body_bytes_max=2000)))
    response = await client.post("/runs", content=endless(), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "input_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/runs/nope", 404, "run_not_found"),
        ("GET", "/runs/nope/events", 404, "run_not_found"),
        ("POST", "/runs/nope/cancel", 404, "run_not_found"),
        ("GET", "/sessions/nope", 404, "session_not_found"),
        ("DELETE", "/sessions/nope", 404, "session_not_found"),
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/runs", 405, "method_not_allowed"),
        ("PUT", "/runs/nope/cancel", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there(client: httpx2.AsyncClient, method: str, path: str, status: int, code: str):
    response = await client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_an_agent_that_raises_is_an_event_and_then_the_end_marker(client_of: Callable[..., Any]):
    async def fails(message: str) -> AsyncIterator[str]:
        yield "shown"
        raise ValueError("secret")

    client = await client_of(Runner(fails))
    got = await client.post("/runs", json={"message": "x"}, headers=STREAM)
    assert got.status_code == 200
    last = msgspec.to_builtins(events(got.content)[-1])
    assert (last["type"], last["code"]) == ("RUN_ERROR", "agent_failed")
    assert b"secret" not in got.content


async def test_a_busy_session_answers_409_or_waits(client_of: Callable[..., Any]):
    agent = Gated()
    client = await client_of(Runner(agent))
    await start(client, session_id="s", run_id="r")
    busy = await client.post("/runs", json={"message": "y", "session_id": "s"})
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")
    queued = await start(client, "y", session_id="s", run_id="q", config={"on_busy": "queue"})
    assert queued["status"] == "queued"
    agent.let(2)
    assert (await ended(client, "q"))["status"] == "finished"


async def test_a_message_is_asked_in_the_place_of_another_which_is_kept(client_of: Callable[..., Any]):
    async def heard(message: str, ctx: RunContext) -> str:
        return " ".join(text_of(one.content) for one in ctx.messages if isinstance(one, UserMessage))

    client = await client_of(Runner(heard))
    for run_id, body in {"a": {}, "b": {}, "c": {"after_run_id": "a"}, "d": {"after_run_id": ""}, "e": {}}.items():
        record = await start(client, run_id, session_id="s", run_id=run_id, **body)
        assert record.get("after_run_id") == body.get("after_run_id")
        again = await client.post("/runs", json={"message": run_id, "session_id": "s", "run_id": run_id})
        assert again.status_code == (409 if body else 202)
        assert (await ended(client, run_id)).get("after_run_id") == body.get("after_run_id")
    messages = (await client.get("/sessions/s/messages")).json()["messages"]
    assert [one["content"] for one in messages if one["role"] == "assistant"] == ["a", "a b", "a c", "d", "d e"]
    places = [one["metadata"].get("gapless.after") for one in messages if one["role"] == "user"]
    assert places == [None, None, "a", "", None]
    for after, status in {"nobody": 404, "other": 422}.items():
        if status == 422:
            await start(client, "x", session_id="t", run_id="other")
        refused = await client.post("/runs", json={"message": "x", "session_id": "s", "after_run_id": after})
        assert refused.status_code == status


async def test_too_much_at_once_answers_429_with_when_to_come_back(client_of: Callable[..., Any]):
    agent = Gated()
    runner = Runner(agent, limits=Limits(runs_active_max=1, followers_per_run_max=1))
    client = await client_of(runner)
    await start(client, run_id="r")
    async with runner.readers.reading(await runner.get_run("r")):
        for response in (
            await client.post("/runs", json={"message": "y"}),
            await client.get("/runs/r/events", headers=STREAM),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (429, "limit_reached")
            assert int(response.headers["retry-after"]) >= 1
    await client.post("/runs/r/cancel")


async def test_coalesced_text_comes_in_fewer_frames(client_of: Callable[..., Any]):
    async def letters(message: str) -> AsyncIterator[str]:
        for letter in "abcdefgh":
            yield letter
            await asyncio.sleep(0)

    client = await client_of(Runner(letters, config=RunConfig(coalesce_ms=50)))
    got = events((await client.post("/runs", json={"message": "x"}, headers=STREAM)).content)
    deltas = [e.delta for e in got if isinstance(e, TextMessageContentEvent)]
    assert "".join(deltas) == "abcdefgh"
    assert len(deltas) < 8


async def test_a_runs_timeline_has_times_and_its_record_what_it_took(client_of: Any):
    async def counted(ctx: RunContext) -> AsyncIterator[str]:
        ctx.add_usage(TokenUsage(provider="openai", model="gpt-4o", input_tokens=1_000, output_tokens=10))
        yield "said"

    client = await client_of(Runner(counted))
    await client.post("/runs", json={"message": "hi", "run_id": "r"}, headers=STREAM)
    shown = (await client.get("/runs/r/timeline")).json()
    assert [entry["what"] for entry in shown["entries"]] == ["starts", "says", "finished"]
    assert all(isinstance(entry["at"], int) for entry in shown["entries"])
    assert shown["first_token_at"] >= shown["entries"][0]["at"]
    behind = (await client.get("/runs/r/timeline", params={"after": shown["entries"][-1]["last_seq"] - 1})).json()
    assert behind == shown | {"entries": shown["entries"][-1:]}
    assert (await client.get("/runs/r/timeline?after=x")).status_code == 422
    record = (await client.get("/runs/r")).json()
    assert record["usage"] == [
        {"provider": "openai", "model": "gpt-4o", "requests": 1, "input_tokens": 1000, "output_tokens": 10}
    ]
    assert record["cost_usd"] > 0
    assert (await client.get("/runs/none/timeline")).status_code == 404


async def test_runs_are_listed_by_agent_time_and_error_and_people_get_the_page(client_of: Any):
    async def fine(message: str) -> str:
        return message

    async def fails(message: str) -> str:
        raise ValueError(message)

    client = await client_of(Runner(agents={"fine": fine, "fails": fails}))
    for agent in ("fine", "fails"):
        body = {"message": "hi", "run_id": agent, "agent": agent}
        await client.post("/runs", json=body, headers=STREAM)

    async def listed(query: str) -> list[str]:
        return [run["id"] for run in (await client.get(f"/runs?{query}")).json()["runs"]]

    assert await listed("agent=fine") == ["fine"]
    assert await listed("error=valueerror") == ["fails"]
    made = (await client.get("/runs/fine")).json()["created_at"]
    assert await listed(f"until={made - 1}") == []
    assert sorted(await listed(f"since={made}")) == ["fails", "fine"]
    assert (await client.get("/runs?since=yesterday")).status_code == 422
    assert (await client.get("/runs?user_id=another")).status_code == 403
    page = await client.get("/runs", headers={"accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["vary"] == "accept"


async def test_operators_see_cancel_and_are_told_the_worker_of_others_runs_and_start_none_for_them(
    client_of: Any, monkeypatch: pytest.MonkeyPatch
):
    keys = {user: f"{user}-has-a-long-key" for user in ("alice", "bob", "olga")}
    monkeypatch.setenv("GAPLESS_API_KEYS", ",".join(f"{user}={key}" for user, key in keys.items()))
    client = await client_of(Runner(Gated("shown")), operators=["olga"])
    own = {user: {"authorization": f"Bearer {key}"} for user, key in keys.items()}
    body = {"message": "hi", "run_id": "r", "session_id": "s"}
    await client.post("/runs", json=body, headers=own["alice"])
    assert (await client.get("/runs", headers=own["bob"])).json() == {"runs": []}
    assert (await client.get("/runs/r/timeline", headers=own["bob"])).status_code == 404
    assert "worker" not in (await client.get("/runs/r", headers=own["alice"])).json()
    listed = (await client.get("/runs", headers=own["olga"])).json()
    assert ([run["id"] for run in listed["runs"]], listed["operator"]) == (["r"], True)
    assert (await client.get("/runs?user_id=bob", headers=own["olga"])).json()["runs"] == []
    worker = (await client.get("/runs/r", headers=own["olga"])).json()["worker"]
    assert (await client.get("/runs/r/timeline", headers=own["olga"])).json()["worker"] == worker
    assert worker not in (await client.get("/runs/r/timeline", headers=own["alice"])).text
    assert (await client.delete("/sessions/s", headers=own["olga"])).status_code == 404
    again = await client.post("/runs", json={"message": "hi", "session_id": "s"}, headers=own["olga"])
    assert again.status_code == 404
    assert (await client.post("/runs/r/cancel", headers=own["olga"])).status_code == 202
