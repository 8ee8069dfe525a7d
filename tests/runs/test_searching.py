"""Conversations by what was said in them."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from gapless import Runner, create_app
from gapless.records import SessionRecord, Turn
from gapless.runs import searching
from gapless.runs.searching import search_sessions


async def agent(message: str) -> AsyncIterator[str]:
    yield f"A {message} has two masts."


@pytest.fixture(params=["memory", "sqlite"])
async def runner(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runner]:
    store = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'gapless.db'}"
    async with Runner(agents={"sea": agent, "land": agent}, store=store) as runner:
        yield runner


async def say(runner: Runner, session_id: str, message: str, agent: str = "sea", user_id: str = "u") -> None:
    run = await runner.start(message, session_id=session_id, agent=agent, user_id=user_id)
    await run.collect()


async def found(runner: Runner, text: str, *, agent: str | None = None, limit: int = 100) -> tuple[list[str], int]:
    """All that is found, page by page, and how many pages that were."""
    sessions: list[SessionRecord] = []
    after, pages = None, 0
    while True:
        page, _ = await search_sessions(runner, text, user_id="u", agent=agent, limit=limit, after=after)
        sessions, pages, after = [*sessions, *page], pages + 1, page.next
        if after is None:
            return [session.id for session in sessions], pages


async def test_titles_questions_and_answers_are_searched_in_any_case(runner: Runner) -> None:
    await say(runner, "a", "ketch")
    await say(runner, "a", "dinghy (*) that is longer")
    await say(runner, "b", "Ketch", user_id="other")
    await runner.create_session("c", user_id="u")
    await runner.rename_session("c", "On ketches")
    assert (await found(runner, "KETCH"))[0] == ["c", "a"]
    assert (await found(runner, "(*)"))[0] == ["a"]
    assert (await found(runner, "two masts"))[0] == ["a"]
    assert (await found(runner, "three"))[0] == []
    _, texts = await search_sessions(runner, "longer has", user_id="u", agent=None, limit=9, after=None)
    assert texts == {"a": "A dinghy (*) that is longer has two masts."}


async def test_what_was_not_looked_through_in_time_is_behind_the_next_page(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "READ_AT_ONCE", 3)
    for number in range(8):
        await say(runner, f"s:{number}~", "ketch" if number % 3 == 0 else "punt", "sea" if number % 2 else "land")
    wanted = ["s:6~", "s:3~", "s:0~"]
    assert await found(runner, "ketch") == (wanted, 1)
    assert (await found(runner, "ketch", limit=1))[0] == wanted
    assert await found(runner, "ketch", agent="land") == (["s:6~", "s:0~"], 1)
    assert len((await found(runner, "", agent="sea"))[0]) == 4
    monkeypatch.setattr(searching, "SEARCH_S", 0.0)
    assert await found(runner, "ketch") == (wanted, 8)  # each look ends after one conversation


async def test_one_that_is_gone_or_used_meanwhile_hides_none(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SEARCH_S", 0.0)
    for number in range(4):
        await say(runner, f"s{number}", "ketch")
    first, _ = await search_sessions(runner, "ketch", user_id="u", agent=None, limit=9, after=None)
    await runner.delete_session("s3")
    second, _ = await search_sessions(runner, "ketch", user_id="u", agent=None, limit=9, after=first.next)
    assert ([it.id for it in first], [it.id for it in second]) == (["s3"], ["s2"])


async def test_over_http(runner: Runner) -> None:
    await say(runner, "a", "ketch", user_id="anonymous")
    await say(runner, "b", "punt", agent="land", user_id="anonymous")
    transport = httpx2.ASGITransport(app=create_app(runner))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        both = (await http.get("/sessions", params={"q": "MASTS"})).json()
        assert [(it["id"], it["found"]) for it in both["sessions"]] == [
            ("b", "A punt has two masts."),
            ("a", "A ketch has two masts."),
        ]
        titled = (await http.get("/sessions", params={"q": "ketch"})).json()["sessions"]
        assert [(it["id"], it.get("found")) for it in titled] == [("a", None)]
        assert [it["id"] for it in (await http.get("/sessions?agent=land")).json()["sessions"]] == ["b"]
        assert (await http.get("/sessions", params={"q": "x" * 201})).status_code == 422
        for nonsense in ("a nonsense", "nonsense", ""):
            refused = await http.get("/sessions", params={"q": "x", "after": nonsense})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "cursor_invalid")


@pytest.mark.parametrize(
    ("text", "wanted", "shown"),
    [
        ("ß" * 40 + "STRASSE", "straße", "…" + "ß" * 30 + "STRASSE"),
        ("İ" * 40 + "stanbul", "STANBUL", "…" + "İ" * 30 + "stanbul"),
        ("ΟΔΟΣ", "οδος", "ΟΔΟΣ"),
        ("x" * (searching.PIECE_CHARS - 2) + "ketch", "KETCH", "…" + "x" * 30 + "ketch"),
    ],
)
async def test_what_was_found_is_where_it_is_shown(text: str, wanted: str, shown: str) -> None:
    async def says(message: str) -> AsyncIterator[str]:
        yield text

    async with Runner(says) as runner:
        await (await runner.start("x", session_id="s", user_id="u")).collect()
        _, texts = await search_sessions(runner, wanted, user_id="u", agent=None, limit=9, after=None)
    assert texts == {"s": shown}


def test_a_text_that_is_nearly_found_everywhere_costs_no_more_than_any_other() -> None:
    text = "a" * 1_000_000  # whoever searches has written it, and everybody would wait

    def seconds(wanted: str) -> float:
        begun = time.process_time()
        assert searching._find(text, wanted) is None
        return time.process_time() - begun

    assert min(seconds("a" * 199 + "b") for _ in range(3)) < 20 * min(seconds("b") for _ in range(3))


async def test_many_searches_look_through_one_conversation_in_a_turn_of_the_loop(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await say(runner, f"s{number}", "ketch")
    turn, looked, look, stop = 0, list[int](), searching._look, False

    async def count() -> None:
        nonlocal turn
        while not stop:
            turn += 1
            await asyncio.sleep(0)

    def noted(turns: list[Turn], wanted: str) -> str | None:
        looked.append(turn)
        return look(turns, wanted)

    monkeypatch.setattr(searching, "_look", noted)
    counting = asyncio.create_task(count())
    pages = await asyncio.gather(*(found(runner, "yawl") for _ in range(10)))
    stop = True
    await counting
    assert all(not sessions for sessions, _ in pages)
    assert len(looked) == 50
    assert max(collections.Counter(looked).values()) == 1
