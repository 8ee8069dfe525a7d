"""What the commands speak to, and runs of a store that are shown with no server: each in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gapless import Runner
from gapless.agents.base import RunContext
from gapless.cli.answer import _unasked
from gapless.cli.runs import _addresses
from gapless.cli.target import asked_by, connect, typed
from gapless.client.client import GaplessClient
from gapless.events import CustomEvent, Interrupt, ResumeEntry
from gapless.records import RunRecord, RunStatus

INVOKED = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/gapless.db"


def kept(store: str, agent: Any, work: Callable[[Runner], Awaitable[None]]) -> None:
    """Do this with a runner of the agent on the store, and leave it."""

    async def run() -> None:
        async with Runner(agent, store=store) as runner:
            await work(runner)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "variable", "base_url"),
    [
        (None, "", "http://127.0.0.1:8000"),
        (None, "http://127.0.0.1:9/agents", "http://127.0.0.1:9/agents"),
        ("http://127.0.0.1:7", "http://127.0.0.1:9", "http://127.0.0.1:7"),
    ],
)
def test_the_server_is_the_one_that_is_typed_or_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, url: str | None, variable: str, base_url: str
) -> None:
    monkeypatch.setenv("GAPLESS_URL", variable)

    async def reached() -> str:
        async with connect(url, None) as target:
            assert isinstance(target, GaplessClient)
            return target.base_url

    assert asyncio.run(reached()) == base_url


def test_a_store_that_is_typed_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, store: str, invoke: INVOKED
) -> None:
    monkeypatch.setenv("GAPLESS_URL", "http://127.0.0.1:1")

    async def nothing(runner: Runner) -> None:
        pass

    kept(store, lambda message: "", nothing)
    assert invoke("runs", "--store", store).exit_code == 0


def test_a_hint_says_the_target_as_it_was_typed_but_for_a_password() -> None:
    assert typed(None, None) == "", "the same will be found again"
    assert typed("http://127.0.0.1:8001", None) == " --url http://127.0.0.1:8001"
    assert typed("http://[::1]:8001/a b", None) == " --url 'http://[::1]:8001/a b'"
    assert typed(None, "sqlite:///a.db") == " --store sqlite:///a.db"
    assert "secret" not in typed(None, "redis://user:secret@host/0")


async def asks(ctx: RunContext) -> AsyncIterator[str]:
    entries = await ctx.interrupt([Interrupt(id="i", reason="approval", message="May I?")])
    yield entries[0].status


def test_a_question_that_was_answered_is_none_any_more(store: str, invoke: INVOKED) -> None:
    async def work(runner: Runner) -> None:
        run = await runner.start("hi", run_id="answered")
        async for event in run.events():
            if asked_by(event):
                await run.answer([ResumeEntry(interrupt_id="i", status="resolved")])

    kept(store, asks, work)
    shown = invoke("follow", "answered", "--store", store)
    assert (shown.stdout, shown.stderr, shown.exit_code) == ("resolved\n", "[asked: May I?]\n", 0)


async def draws(message: str) -> AsyncIterator[str | CustomEvent]:
    yield "Here: "
    yield CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": b"small", "name": "a.png"})
    yield CustomEvent(name="gapless.file", value={"mimeType": "image/gif", "data": b"large" * 20_000})


def test_files_are_shown_with_where_they_are(store: str, invoke: INVOKED) -> None:
    async def work(runner: Runner) -> None:
        await (await runner.start("hi", run_id="drawn")).collect()

    kept(store, draws, work)
    shown = invoke("follow", "drawn", "--store", store)
    small, large = shown.stderr.splitlines()
    assert (shown.stdout, small) == ("Here: \n", "[file: a.png, image/png, 5 bytes] /runs/drawn/blobs/file-1")
    assert large.startswith("[file: image/gif, 100,000 bytes] /runs/drawn/blobs/")
    later = invoke("follow", "drawn", "--store", store, "--after", "1").stderr.splitlines()
    assert later == ["[file: a.png, image/png, 5 bytes]", large], "its number is not known from there"


@pytest.mark.parametrize(
    ("base_url", "path", "address"),
    [
        ("http://a:1", "/runs/r/blobs/1", "http://a:1/runs/r/blobs/1"),
        ("http://a:1/agents", "/runs/r/blobs/1", "http://a:1/agents/runs/r/blobs/1"),
        ("http://a:1/agents", "/agents/runs/r/blobs/1", "http://a:1/agents/runs/r/blobs/1"),
        ("http://a:1", "https://b/x.png", "https://b/x.png"),
        ("http://a:1", "file:///x.png", None),
    ],
)
def test_a_file_is_fetched_at_the_server_that_is_followed(base_url: str, path: str, address: str | None) -> None:
    record = RunRecord(id="r", session_id="s", user_id="u", agent="a", message="", created_at=0)
    found = _addresses(GaplessClient(base_url), record, whole=True)
    assert found(CustomEvent(name="gapless.file", value={"url": path})) == address


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (
            RunStatus.FAILED,
            {"code": "worker_lost", "message": "gone"},
            "has failed (worker_lost: gone): it waits for no",
        ),
        (RunStatus.CANCELLED, {"code": "run_cancelled", "message": "by\nu"}, "was cancelled (run_cancelled: by u): it"),
        (RunStatus.FINISHED, None, "has finished: it waits for no answer"),
        (RunStatus.RUNNING, None, "is running: it waits for no answer now"),
    ],
)
def test_why_a_run_takes_no_answer(status: RunStatus, error: dict[str, str] | None, said: str) -> None:
    run = RunRecord(
        id="r", session_id="s", user_id="u", agent="a", message="", created_at=0, status=status, error=error
    )
    assert f"run r {said}" in _unasked(run)
