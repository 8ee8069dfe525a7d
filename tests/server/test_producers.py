"""`POST /runs/{id}/events`: runs that are executed elsewhere, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from gapless import GaplessClient, Limits, Runner, create_app
from gapless.errors import BatchConflict, RunFenced
from gapless.events import RunFinishedEvent, RunStartedEvent, TextMessageContentEvent
from gapless.producing import BATCH_EVENTS_MAX
from tests.support.sse import events


async def agent(message: str) -> str:
    return message


@pytest.fixture
async def client(client_of: Callable[..., Any]) -> httpx2.AsyncClient:
    return await client_of(Runner(agent))  # type: ignore[no-any-return]  # as it says


async def test_a_loop_of_curl_would_do(client: httpx2.AsyncClient):
    started = (await client.post("/runs", json={"message": "Do it.", "producer": True})).json()
    path = f"/runs/{started['id']}/events"

    async def post(**body: Any) -> tuple[int, Any]:
        answer = await client.post(path, json={"producer": "curl", **body})
        return answer.status_code, answer.json().get("number") or answer.json().get("error", {}).get("code")

    assert await post(epoch=1, number=1, events=["Hello, "]) == (200, 1)
    assert await post(epoch=1, number=1, events=["Hello, "]) == (200, 1)
    assert await post(epoch=1, number=3, events=["?"]) == (409, "batch_conflict")
    assert await post(epoch=1, number=2, events=[{"type": "WRONG"}]) == (422, "input_invalid")
    assert await post(epoch=1, number=2, nothing=True) == (422, "input_invalid")
    unstarted = {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": "{}"}
    assert await post(epoch=1, number=2, events=["Not this. ", unstarted]) == (422, "input_invalid")
    assert (await client.post(path, json={"producer": "next"})).json() == {"producer": "next", "epoch": 2, "number": 1}
    assert await post(epoch=1, number=2, events=["too late"]) == (409, "run_fenced")
    end = {"type": "RUN_FINISHED", "threadId": "", "runId": ""}
    assert await post(epoch=3, number=2, events=["world.", end]) == (200, 2)
    told = events((await client.get(path, headers={"accept": "text/event-stream"})).content)
    assert "".join(one.delta for one in told if isinstance(one, TextMessageContentEvent)) == "Hello, world."
    assert isinstance(told[-1], RunFinishedEvent)


async def test_a_run_is_an_agents_or_a_producers(client: httpx2.AsyncClient):
    both = await client.post("/runs", json={"message": "x", "producer": True, "agent": "agent"})
    assert (both.status_code, both.json()["error"]["code"]) == (422, "input_invalid")
    run = (await client.post("/runs", json={"message": "x"})).json()
    refused = await client.post(f"/runs/{run['id']}/events", json={"producer": "p"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "input_invalid")


async def test_nobody_writes_the_run_of_another_user(client_of: Callable[..., Any]):
    users = {"a": "ann", "b": "bob"}
    client = await client_of(Runner(agent), authenticate=lambda request: users.get(request.headers.get("x-user", "")))
    run = (await client.post("/runs", json={"message": "x", "producer": True}, headers={"x-user": "a"})).json()
    refused = await client.post(f"/runs/{run['id']}/events", json={"producer": "p"}, headers={"x-user": "b"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "run_not_found")


async def test_who_may_not_produce_does_not_hear_of_the_run(client_of: Callable[..., Any]):
    asked = []

    def authorize(user: str, action: str, subject: Any) -> bool:
        asked.append(action)
        return action != "produce"

    client = await client_of(Runner(agent), authorize=authorize)
    run = (await client.post("/runs", json={"message": "x", "producer": True})).json()
    refused = await client.post(f"/runs/{run['id']}/events", json={"producer": "p"})
    assert (refused.status_code, refused.json()["error"]["code"], asked) == (404, "run_not_found", ["produce"])


async def test_a_batch_has_limits(client: httpx2.AsyncClient):
    run = (await client.post("/runs", json={"message": "x", "producer": True})).json()
    path = f"/runs/{run['id']}/events"
    for events_sent in (["x"] * (BATCH_EVENTS_MAX + 1), ["x" * Limits().body_bytes_max]):
        refused = await client.post(path, json={"producer": "p", "epoch": 1, "number": 1, "events": events_sent})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "input_too_large")
    assert (await client.post(path, json={"producer": "p" * 97})).status_code == 422
    most = {"producer": "p", "epoch": 1, "number": 1, "events": ["x"] * BATCH_EVENTS_MAX}
    assert (await client.post(path, json=most)).json()["number"] == 1


async def test_a_producer_that_does_not_wait_is_held_back(client: httpx2.AsyncClient):
    run = (await client.post("/runs", json={"message": "x", "producer": True})).json()
    path, sent = f"/runs/{run['id']}/events", {"producer": "p", "epoch": 1, "number": 1, "events": ["Once."]}
    answers = await asyncio.gather(*(client.post(path, json=sent) for _ in range(100)))
    held = [answer for answer in answers if answer.status_code == 429]
    assert held
    assert {answer.headers["retry-after"] for answer in held} == {"1"}
    assert {answer.status_code for answer in answers} == {200, 429}
    assert (await client.post(path, json=sent)).json()["number"] == 1, "it goes on where it was"


async def test_a_question_and_its_answer(client_of: Callable[..., Any]):
    runner = Runner(agent)
    client = await client_of(runner)
    run = (await client.post("/runs", json={"message": "x", "producer": True})).json()
    path = f"/runs/{run['id']}"
    outcome = {"type": "interrupt", "interrupts": [{"id": "q", "reason": "confirmation"}]}
    asks = {"type": "RUN_FINISHED", "threadId": "", "runId": "", "outcome": outcome}
    sent = {"producer": "p", "epoch": 1, "number": 1, "events": ["Shall I? ", asks]}
    for _ in range(2):
        assert (await client.post(f"{path}/events", json=sent)).json()["number"] == 1
    shown = (await client.get(path)).json()
    assert (shown["status"], [one["id"] for one in shown["interrupts"]]) == ("waiting", ["q"])
    on = {"producer": "p", "epoch": 1, "number": 2, "events": ["Done.", {**asks, "outcome": None}]}
    refused = await client.post(f"{path}/events", json=on)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "run_waits")
    answer = {"resume": [{"interruptId": "q", "status": "resolved", "payload": True}]}
    assert (await client.post(f"{path}/input", json=answer)).status_code == 202
    async for event in (await runner.attach(run["id"])).events():
        if isinstance(event, RunStartedEvent) and event.input and event.input.resume:
            break  # from here on it is answered
    for _ in range(2):
        accepted = await client.post(f"{path}/events", json=on)
        assert accepted.status_code == 200, accepted.text


async def test_a_program_writes_with_the_client():
    runner = Runner(agent)
    transport = httpx2.ASGITransport(create_app(runner))
    async with runner, GaplessClient("http://localhost", transport=transport) as client:
        run = await client.start("Do it.", producer=True)
        async with client.produce(run.id, name="first") as first, client.produce(run.id) as second:
            assert (first.epoch, second.epoch) == (1, 2)
            with pytest.raises(RunFenced):
                await first.send("too late")
            assert await second.send("Said.") == 1
            second.number = 5
            with pytest.raises(BatchConflict):
                await second.send("a hole")
            second.number = 1
            await second.send(RunFinishedEvent(thread_id="", run_id=""))
        told = [event async for _, event in client.follow(run.id)]
        assert [one.delta for one in told if isinstance(one, TextMessageContentEvent)] == ["Said."]
