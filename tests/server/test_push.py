"""The routes by which browsers are told of their users' runs, and the page's part of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest

from gapless import Runner
from gapless.server.app import create_app
from tests.support.over_http import ended
from tests.support.push_service import PUBLIC_KEY, PushService, push_config


async def echo(message: str) -> AsyncIterator[str]:
    yield message


def by_header(request: Any) -> str | None:
    user: str | None = request.headers.get("x-user")
    return user


async def test_a_browser_subscribes_is_told_and_unsubscribes(client_of: Callable[..., Any]):
    async with PushService() as service:
        runner = Runner(echo, notify=push_config())
        client: httpx2.AsyncClient = await client_of(runner)
        assert (await client.get("/push/key")).json() == {"key": PUBLIC_KEY}
        given = service.subscription("phone")
        for _ in range(2):
            answer = await client.put("/push/subscriptions", json=given)
            assert (answer.status_code, answer.content) == (204, b"")
        await client.post("/runs", json={"message": "hi", "run_id": "r"})
        await ended(client, "r")
        await service.until(1)
        await runner.worker.deliveries.settled()
        (shown,) = (await client.get("/runs/r/notices")).json()["notices"]
        assert (shown["to"], shown["status"]) == ("browsers", "delivered")
        assert service.told("phone")[0]["id"] == shown["id"]
        for _ in range(2):
            answer = await client.request("DELETE", "/push/subscriptions", json={"endpoint": given["endpoint"]})
            assert answer.status_code == 204
        await client.post("/runs", json={"message": "hi", "run_id": "r2"})
        await ended(client, "r2")
        await runner.worker.deliveries.settled()
        assert len(service.received) == 1


async def test_who_is_not_known_subscribes_nothing_and_nobody_takes_another_s_away(client_of: Callable[..., Any]):
    async with PushService() as service:
        runner = Runner(echo, notify=push_config())
        client: httpx2.AsyncClient = await client_of(runner, authenticate=by_header)
        given = service.subscription("phone")
        assert (await client.get("/push/key")).status_code == 401
        assert (await client.put("/push/subscriptions", json=given)).status_code == 401
        assert (await client.request("DELETE", "/push/subscriptions", json=given)).status_code == 401
        assert (await client.put("/push/subscriptions", json=given, headers={"x-user": "a"})).status_code == 204
        gone = await client.request("DELETE", "/push/subscriptions", json=given, headers={"x-user": "b"})
        assert gone.status_code == 204
        assert len(await runner.store.subscriptions.of_user("a")) == 1
        assert await runner.store.subscriptions.of_user("b") == []


async def test_what_is_no_subscription_is_refused(client_of: Callable[..., Any]):
    client: httpx2.AsyncClient = await client_of(Runner(echo, notify=push_config(private=False, http=False)))
    keys = {"p256dh": PUBLIC_KEY, "auth": "A" * 22}
    bodies: tuple[Any, ...] = (
        {"endpoint": "https://push.example.com/x"},
        {"endpoint": "https://push.example.com/x", "keys": {"p256dh": PUBLIC_KEY}},
        {"endpoint": "https://192.168.0.1/x", "keys": keys},
        {"endpoint": "http://push.example.com/x", "keys": keys},
        [],
    )
    for body in bodies:
        answer = await client.put("/push/subscriptions", json=body)
        assert answer.json()["error"]["code"] == "input_invalid", body
        assert answer.status_code == 422
    large = {"endpoint": "https://push.example.com/x", "keys": keys, "more": "x" * 10_000}
    assert (await client.put("/push/subscriptions", json=large)).status_code == 413


async def test_a_server_without_a_key_says_so(client_of: Callable[..., Any]):
    client: httpx2.AsyncClient = await client_of(Runner(echo))
    for answer in (
        await client.get("/push/key"),
        await client.put("/push/subscriptions", json={}),
        await client.request("DELETE", "/push/subscriptions", json={}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "push_unavailable")
    assert "data-push" not in (await client.get("/")).text


async def test_the_page_knows_the_key_and_has_its_worker_beside_it(client_of: Callable[..., Any]):
    client: httpx2.AsyncClient = await client_of(Runner(echo, notify=push_config()))
    page = await client.get("/")
    assert f'data-push="{PUBLIC_KEY}"' in page.text
    worker = await client.get("/push-worker.js")
    assert worker.headers["content-type"].partition(";")[0] == "text/javascript"
    assert worker.headers["cache-control"] == "no-cache"
    assert "default-src 'none'" in worker.headers["content-security-policy"]


async def test_on_a_home_screen_the_page_is_an_app(client_of: Callable[..., Any]):
    """On iPhones and iPads only such a page may have notifications."""
    client: httpx2.AsyncClient = await client_of(Runner(echo))
    page = await client.get("/")
    assert '<link rel="manifest" href="static/manifest.json">' in page.text
    assert "manifest-src 'self'" in page.headers["content-security-policy"]
    manifest = await client.get("/static/manifest.json")
    assert manifest.headers["content-type"] == "application/json"
    assert manifest.json()["display"] == "standalone"
    assert {
        urljoin("https://host/agents/static/manifest.json", manifest.json()[one]) for one in ("scope", "start_url")
    } == {"https://host/agents/"}, "wherever that is"


@pytest.mark.parametrize("path", ["/push/key", "/push/subscriptions"])
def test_the_routes_are_described(path: str):
    described = create_app(Runner(echo)).openapi()["paths"]
    assert path in described
