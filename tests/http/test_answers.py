"""What the routes share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from gapless import Runner, create_app
from gapless.errors import GaplessError, StoreCorrupt, StoreUnavailable
from gapless.http.answers import json_response, long_json_response


async def test_the_pages_load_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    for path in ("/", "/docs"):
        page = await client.get(path)
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        for file in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
            assert (await client.get(f"/{file}")).status_code == 200, file


async def test_a_worker_whose_store_takes_nothing_is_not_ready(
    client_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(lambda message: message)
    client = await client_of(runner)
    append, refused = runner.store.append, asyncio.Event()

    async def full(batches: Any) -> Any:
        refused.set()
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(runner.store, "append", full)
    assert (await client.get("/ready")).status_code == 200
    await client.post("/runs", json={"message": "x", "run_id": "r"})
    await refused.wait()
    answer = await client.get("/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert (await client.get("/health")).status_code == 200, "it is not the process that is ill"
    monkeypatch.setattr(runner.store, "append", append)
    await (await runner.attach("r")).wait()
    while runner.executions:
        await asyncio.sleep(0)
    assert (await client.get("/ready")).status_code == 200


async def test_a_client_that_leaves_while_it_sends_its_request_is_no_error_of_the_server() -> None:
    arriving = iter([{"type": "http.request", "body": b'{"mess', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(arriving)

    async def send(message: Any) -> None:
        pass

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": "/runs", "query_string": b"", "headers": headers}
    app = create_app(Runner(lambda message: message, store="memory://"))
    await app({**scope, "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1)}, receive, send)
    assert next(arriving, None) is None, "it was read"


@pytest.mark.parametrize("failure", [StoreUnavailable, StoreCorrupt])
async def test_clients_are_not_told_where_the_store_is(
    client_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: type[GaplessError],
) -> None:
    runner = Runner(lambda message: message)
    client = await client_of(runner)

    async def fail(*arguments: Any, **options: Any) -> Any:
        raise failure("store redis://10.1.2.3:6379/0: /srv/secret.db is gone")

    read = "get_run", "list_runs", "find_runs", "active_runs", "get_session", "list_sessions", "turns"
    for method in (*read, "create_run"):
        monkeypatch.setattr(runner.store, method, fail)
    said = [{"role": "user", "content": "x"}]
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/ready", None),
        ("GET", "/runs", None),
        ("GET", "/runs/r", None),
        ("GET", "/sessions", None),
        ("POST", "/runs", {"message": "x", "run_id": "r"}),
        ("GET", "/chat/stream?query=x", None),
        ("GET", "/v1/responses/r", None),
        ("POST", "/v1/chat/completions", {"model": "<lambda>", "messages": said}),
        ("GET", "/vercel/chat/c/stream", None),
        ("GET", "/apps/agent/users/u/sessions", None),
    ]
    for method, path, body in asked:
        caplog.clear()
        answer = await client.request(method, path, json=body)
        assert answer.status_code >= 400, path
        assert "10.1.2.3" not in answer.text, path
        assert "secret" not in answer.text, path
        if answer.status_code >= 500:
            assert "redis://10.1.2.3:6379/0" in caplog.text, path


async def test_the_end_of_a_run_does_not_tell_where_the_store_is(
    client_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(message: str) -> str:
        raise StoreUnavailable("store redis://10.1.2.3:6379/0: no answer")

    client = await client_of(Runner(agent))
    shown = await client.post("/runs", json={"message": "x", "run_id": "r"}, headers={"accept": "text/event-stream"})
    record = await client.get("/runs/r")
    assert record.json()["error"]["code"] == "store_unavailable"
    assert "10.1.2.3" not in shown.text + record.text
    assert "10.1.2.3" in caplog.text


async def test_a_long_answer_is_the_same_and_lets_others_have_their_turn():
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    messages = [{"content": "é" * 100_000}] * 20
    content: dict[str, Any] = {"messages": messages, "none": [], "activeRun": None, "n": {"a": 1}}
    task = asyncio.create_task(other())
    response = await long_json_response(content)
    task.cancel()
    assert (response.body, response.headers) == (json_response(content).body, json_response(content).headers)
    assert turns >= 10, "4 MB"
    assert (await long_json_response({})).body == b"{}"
