"""The routes that say who is told of runs, and what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2

from gapless import NotifyConfig, Runner, Webhook
from tests.support.over_http import ended
from tests.support.receiver import SECRET, Receiver

HERE = {"http": True, "private": True}
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
GONE = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"


async def echo(message: str) -> AsyncIterator[str]:
    yield message


async def test_a_start_names_a_webhook_and_its_record_shows_none(client_of: Callable[..., Any]):
    async with Receiver(lambda number: GONE if number == 1 else TAKEN) as receiver:
        runner = Runner(echo, notify=NotifyConfig(**HERE))
        client: httpx2.AsyncClient = await client_of(runner)
        body = {"message": "hi", "run_id": "r", "notify": {"url": receiver.url, "secret": SECRET}}
        started = await client.post("/runs", json=body)
        assert started.status_code == 202, started.text
        assert "notify" not in started.json()
        assert "notify" not in await ended(client, "r")
        assert "notify" not in (await client.get("/runs")).json()["runs"][0]
        await receiver.until(1)
        await runner.worker.deliveries.settled()
        (shown,) = (await client.get("/runs/r/notices")).json()["notices"]
        assert (shown["type"], shown["status"], shown["attempts"]) == ("run.finished", "failed", 1)
        assert shown["error"] == "it answers 410"
        assert shown["to"] == f"http://127.0.0.1:{receiver.port}/…"
        assert SECRET not in str(shown)
        again = await client.post(f"/runs/r/notices/{shown['id']}")
        assert again.status_code == 202
        await receiver.until(2)
        await runner.worker.deliveries.settled()
        assert (await client.get("/runs/r/notices")).json()["notices"][0]["status"] == "delivered"
        assert [id for id, _ in receiver.received] == [shown["id"]] * 2
        assert receiver.unverified == 0
        unknown = await client.post("/runs/r/notices/msg_unknown")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "notice_not_found")
        assert (await client.get("/runs/unknown/notices")).status_code == 404
        repeated = await client.post("/runs", json=body | {"notify": None})
        assert repeated.json()["error"]["code"] == "run_conflict"


async def test_the_server_s_own_webhook_is_shown_without_its_address(client_of: Callable[..., Any]):
    async with Receiver() as receiver:
        ours = Webhook(url=receiver.url, secret=SECRET)
        runner = Runner(echo, notify=NotifyConfig(webhooks=(ours,), clients=False, **HERE))
        client: httpx2.AsyncClient = await client_of(runner)
        await client.post("/runs", json={"message": "hi", "run_id": "r"})
        await receiver.until(1)
        (shown,) = (await client.get("/runs/r/notices")).json()["notices"]
        assert shown["to"] == "server"
        assert str(receiver.port) not in str(shown)
        refused = await client.post("/runs", json={"message": "hi", "notify": {"url": receiver.url, "secret": SECRET}})
        assert refused.status_code == 422
        assert "the operator's" in refused.json()["error"]["message"]


async def test_what_is_no_webhook_starts_nothing(client_of: Callable[..., Any]):
    client: httpx2.AsyncClient = await client_of(Runner(echo))
    for notify, said in (
        ({"url": "https://127.0.0.1/", "secret": SECRET}, "no public address"),
        ({"url": "http://hooks.example.com/", "secret": SECRET}, "the operator's to allow"),
        ({"url": "https://hooks.example.com/"}, "whsec_"),
        ({"url": "https://hooks.example.com/", "secret": "a password"}, "random bytes"),
        ({"secret": SECRET}, "url"),
    ):
        refused = await client.post("/runs", json={"message": "hi", "notify": notify})
        assert refused.status_code == 422, notify
        message = refused.json()["error"]["message"]
        assert said in message
        assert SECRET not in message
        assert "a password" not in message
    assert (await client.get("/runs")).json()["runs"] == []
