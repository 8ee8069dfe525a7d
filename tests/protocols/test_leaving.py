"""What holds on every route that answers when its run has ended: a client that hangs up has left its run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless import RunConfig, Runner
from gapless.records import RunStatus
from gapless.server import create_app
from tests.support.waiting import WAIT_S, at_rest

WAITING: dict[str, tuple[str, dict[str, Any]]] = {
    "adk": ("/run", {"userId": "anonymous", "sessionId": "s", "newMessage": {"parts": [{"text": "?"}]}}),
    "completion": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "?"}]}),
    "response": ("/v1/responses", {"input": "?"}),
}
"""By name: path and body of a request whose answer comes when the run has ended."""


class Leaving:
    """A client that sends one request, and hangs up when it is told to."""

    def __init__(self, app: Any, path: str, body: dict[str, Any]) -> None:
        self.hang_up = asyncio.Event()
        self.sent: list[Any] = []
        headers = {"host": "localhost", "content-type": "application/json", "x-run-id": "r"}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self._body: bytes | None = json.dumps(body).encode()
        self.answered = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.parametrize(
    ("config", "status"),
    [(RunConfig(on_disconnect="cancel"), RunStatus.CANCELLED), (RunConfig(), RunStatus.RUNNING)],
    ids=["cancel", "default"],
)
@pytest.mark.parametrize("name", WAITING)
async def test_a_client_that_hangs_up_has_left_its_run(
    name: str, config: RunConfig, status: RunStatus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapless.runs.worker.LEFT_S", 0.0)
    begun = asyncio.Event()

    async def endless(message: str) -> AsyncIterator[str]:
        begun.set()
        yield "word "
        await asyncio.Event().wait()

    async with Runner(endless, config=config) as runner:
        await runner.create_session("s", user_id="anonymous", agent="endless")
        path, body = WAITING[name]
        client = Leaving(create_app(runner), path, body)
        await begun.wait()
        client.hang_up.set()
        await asyncio.wait_for(client.answered, WAIT_S)
        await at_rest()
        assert (await runner.get_run("r")).status is status
        assert not any(message.get("status") == 200 for message in client.sent)
