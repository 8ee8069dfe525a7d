"""Lists: their pages, and nothing in them that is long; the bound on a state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gapless import Limits, Runner
from gapless.agents.base import RunContext
from gapless.errors import InputTooLarge, RunLimit
from gapless.events import StateDeltaEvent
from gapless.journals import finding
from gapless.records import LISTED_CHARS_MAX
from tests.support.over_http import ended, start

ClientOf = Callable[..., Any]
BOUND = 1000
LONG = "x" * (BOUND + 1)


async def echo(message: str) -> AsyncIterator[str]:
    yield message[:10]


async def remember(message: str, ctx: RunContext) -> AsyncIterator[str]:
    """Keeps as much as it is told in its state."""
    ctx.state["kept"] = "x" * int(message)
    yield "kept"


async def patch(message: str) -> AsyncIterator[Any]:
    yield StateDeltaEvent(delta=[{"op": "add", "path": "/kept", "value": "x" * int(message)}])


async def test_lists_have_pages(client_of: ClientOf):
    client = await client_of(Runner(echo))
    for n in range(5):
        await start(client, run_id=f"r{n}", session_id=f"s{n}")
        await ended(client, f"r{n}")  # or its session would come to the front between two pages
    for kind, first in (("runs", "r"), ("sessions", "s")):
        seen, params = [], {"limit": "2"}
        for left in (3, 1, 0):
            page = (await client.get(f"/{kind}", params=params)).json()
            seen += [one["id"] for one in page[kind]]
            assert ("next" in page) == (left > 0)
            params["after"] = page.get("next", "")
        assert sorted(seen) == [f"{first}{n}" for n in range(5)]
        refused = await client.get(f"/{kind}?after=elsewhere")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "cursor_invalid")


async def test_a_page_that_has_looked_at_many_runs_says_so_and_the_next_goes_on(
    client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finding, "LOOKED_MAX", 2)
    client = await client_of(Runner(echo))
    for n in range(5):
        await start(client, run_id=f"r{n}", session_id=f"s{n}")
        await ended(client, f"r{n}")
    pages: list[Any] = []
    params = {"agent": "nobody"}
    while not pages or "next" in pages[-1]:
        pages.append((await client.get("/runs", params=params)).json())
        params["after"] = pages[-1].get("next", "")
    assert [page["runs"] for page in pages] == [[], [], []]
    assert [(page.get("looked"), page.get("left")) for page in pages] == [(2, 3), (2, 1), (None, None)]


async def test_lists_show_nothing_that_is_long(client_of: ClientOf):
    client = await client_of(Runner(echo))
    await client.post("/sessions", json={"id": "s", "state": {"kept": LONG}})
    await client.post("/apps/echo/users/anonymous/sessions/t", json={"kept": LONG})
    await client.post("/runs", json={"message": LONG, "run_id": "r", "session_id": "s"})
    (run,) = (await client.get("/runs")).json()["runs"]
    assert run["message"] == "x" * (LISTED_CHARS_MAX - 1) + "…"
    assert (await client.get("/runs/r")).json()["message"] == LONG
    assert all(session.get("state", {}) == {} for session in (await client.get("/sessions")).json()["sessions"])
    listed = (await client.get("/apps/echo/users/anonymous/sessions")).json()
    assert [session["state"] for session in listed] == [{}, {}]
    for path in ("/sessions/s", "/apps/echo/users/anonymous/sessions/t"):
        assert (await client.get(path)).json()["state"] == {"kept": LONG}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/sessions", {"id": "new", "state": {"kept": LONG}}),
        ("POST", "/apps/echo/users/anonymous/sessions", {"state": {"kept": LONG}}),
        ("POST", "/apps/echo/users/anonymous/sessions/new", {"kept": LONG}),
        ("PATCH", "/apps/echo/users/anonymous/sessions/s", {"stateDelta": {"kept": LONG}}),
        ("PATCH", "/apps/echo/users/anonymous/sessions/s", {"stateDelta": {"more": "x" * 600}}),
        (
            "POST",
            "/run_sse",
            {
                "appName": "echo",
                "userId": "anonymous",
                "sessionId": "s",
                "newMessage": {"role": "user", "parts": [{"text": "hi"}]},
                "stateDelta": {"kept": LONG},
            },
        ),
        (
            "POST",
            "/ag-ui",
            {
                "threadId": "s",
                "runId": "r",
                "messages": [{"id": "m", "role": "user", "content": "hi"}],
                "state": {"kept": LONG},
                "tools": [],
                "context": [],
                "forwardedProps": {},
            },
        ),
    ],
)
async def test_a_client_sets_no_state_over_the_limit(client_of: ClientOf, method: str, path: str, body: Any):
    client = await client_of(Runner(echo, limits=Limits(state_bytes_max=BOUND)))
    before = {"kept": "x" * 600}
    await client.post("/apps/echo/users/anonymous/sessions/s", json=before)
    refused = await client.request(method, path, json=body)
    assert refused.status_code == 413, refused.text
    assert f"state_bytes_max={BOUND}" in refused.text
    assert (await client.get("/sessions/s")).json()["state"] == before
    assert len((await client.get("/sessions")).json()["sessions"]) == 1


@pytest.mark.parametrize("agent", [remember, patch])
async def test_a_run_leaves_no_state_over_the_limit(agent: Any):
    async with Runner(agent, limits=Limits(state_bytes_max=BOUND)) as runner:
        await (await runner.start("600", session_id="s")).collect()
        run = await runner.start("2000", session_id="s")
        with pytest.raises(RunLimit, match=f"state_bytes_max={BOUND}"):
            await run.collect()
        assert (await run.record()).error is not None
        assert (await runner.get_session("s")).state == {"kept": "x" * 600}
        with pytest.raises(InputTooLarge):
            await runner.update_state("s", {"more": "x" * 600})
        assert (await (await runner.start("10", session_id="s")).collect()).text in ("kept", "")
