"""The table of stores: a store is one line in it, and what it tells of itself is on its class."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from gapless import Runner, journals
from gapless.cli import app
from gapless.cli.listen import check_store
from gapless.errors import ExtraMissing, GaplessError, UsageError
from gapless.journals import StoreEntry, open_store, store_class
from gapless.journals.contract import shown_url
from gapless.journals.memory import Memory, MemoryStore

NOTEBOOK = Memory()


class NotebookStore(MemoryStore):
    """A store that is not of this package, with a password in its URL."""

    shared: ClassVar[bool] = True

    @classmethod
    def from_url(cls, url: str) -> NotebookStore:
        assert url.endswith("://user:secret@shelf") or "scratch" in url
        return cls(NOTEBOOK)


class ScratchStore(NotebookStore):
    shared: ClassVar[bool] = False


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    more = [
        StoreEntry(("notebook", "notebooks"), f"{NotebookStore.__module__}:NotebookStore"),
        StoreEntry(("scratch",), f"{NotebookStore.__module__}:ScratchStore"),
        StoreEntry(("absent",), "gapless.journals.absent:AbsentStore", extra="absent"),
    ]
    monkeypatch.setattr(journals, "STORES", [*journals.STORES, *more])


async def echo(message: str) -> str:
    return message


async def test_a_store_that_is_one_line_in_the_table_is_used_by_its_url(registered: None):
    async with Runner(echo, store="notebooks://user:secret@shelf") as runner:
        assert (await (await runner.start("kept", run_id="r")).collect()).text == "kept"
    assert NOTEBOOK.runs["r"].message == "kept"


def test_commands_ask_its_class(registered: None):
    serve = CliRunner().invoke(app, ["serve", "--workers", "2", "--store", "scratch://x"], env={"COLUMNS": "200"})
    assert "needs a store that processes share" in serve.output
    runs = CliRunner().invoke(app, ["runs", "--store", "scratch://x"], env={"COLUMNS": "200"})
    assert "another process's memory" in runs.output
    doctor = ["doctor", f"{__file__}:echo", "--store", "notebook://user:secret@shelf"]
    examined = CliRunner().invoke(app, doctor, env={"COLUMNS": "200"})
    assert "✓ store notebook://user:***@shelf is writable" in examined.output
    assert "secret" not in examined.output


def test_whoever_only_looks_at_a_store_takes_no_runs_over(registered: None, monkeypatch: pytest.MonkeyPatch):
    taken: list[float] = []

    async def take_over(self: NotebookStore, lease_s: float) -> list[Any]:
        taken.append(lease_s)
        return []

    async def advice(self: NotebookStore) -> list[Any]:
        for _ in range(100):  # time enough for a worker to begin
            await asyncio.sleep(0)
        return []

    monkeypatch.setattr(NotebookStore, "take_over", take_over)
    monkeypatch.setattr(NotebookStore, "advice", advice)
    assert check_store("notebook://user:secret@shelf") == ("", [])
    assert not taken


def test_the_extra_that_a_store_needs_is_named(registered: None):
    with pytest.raises(ExtraMissing, match=r"pip install 'gapless\[absent\]'"):
        open_store("absent://x")


def test_every_store_of_the_table_says_whether_processes_share_it():
    shared = {scheme: store_class(f"{scheme}://").shared for entry in journals.STORES for scheme in entry.schemes}
    assert [scheme for scheme, is_shared in shared.items() if not is_shared] == ["memory"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("sqlite:////home/a:b@c/x.db", "sqlite:////home/a:b@c/x.db"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:secret@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis://:secret@host", "redis://:***@host"),
        ("rediss://user:se/cr@e:t?#x@host/0", "rediss://user:***@host/0"),
        ("redis://:secret\n@host", "redis://:***@host"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("postgresql://user:secret@host/db?schema=x", "postgresql://user:***@host/db?schema=x"),
        ("unix://user:secret@/run/redis.sock?db=2", "unix://user:***@/run/redis.sock?db=2"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str):
    assert shown_url(url) == shown


@pytest.mark.parametrize("url", ["rediss://user:secret@", "redsi://user:se/cret@host", "redis:user:secret@host", ""])
def test_an_error_about_a_url_does_not_show_its_password(url: str):
    with pytest.raises(UsageError) as caught:
        open_store(url)
        raise UsageError(shown_url(url))
    assert "secret" not in str(caught.value)
    assert "se/cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
@pytest.mark.parametrize("password", ["se/cret", "se#cret", "se?cret", "se@cret", "secret"])
async def test_no_error_of_a_server_that_is_not_there_shows_the_password(scheme: str, password: str):
    with pytest.raises(GaplessError) as caught:
        store = open_store(f"{scheme}://user:{password}@127.0.0.1:1/0")
        await store.open("w", None)  # type: ignore[arg-type]  # it is never called
    told = [str(caught.value), str(caught.value.__cause__ or "")]
    assert not [text for text in told if password in text or "cret" in text]
