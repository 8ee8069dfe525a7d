"""The window is told of the run that it shows by its one stream, and looks at it when something has come."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from gapless import Limits, Runner, create_app
from gapless.events import (
    Event,
    RunFinishedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
)
from gapless.journals.memory import Memory, MemoryStore
from gapless.moves import HANDED_OVER, PASSED_ON
from gapless.records import RunRecord, SessionRecord, now_ms
from gapless.testing import Cutter, serving
from tests.page.test_window import ENTRIES, SIZES, TIMELINE, browser, leaving
from tests.page.test_window_live import OPEN, Elsewhere, worker
from tests.support.browser import Browser
from tests.support.over_http import STREAM
from tests.support.waiting import until

__all__ = ["browser", "leaving"]  # the fixtures

WATCHING = """() => {
    const asked = window.fetch;
    Object.assign(window, {looks: [], streams: [], atOnce: 0, held: null});
    window.fetch = async (url, options, ...rest) => {
        const path = String(url).replace(location.origin, "");
        if (/[/](feed|events[?]feed)/.test(path)) window.streams.push(path);
        if (options?.method === "POST" || !/^[/]runs[/]/.test(path)) return asked(url, options, ...rest);
        const look = {path, at: performance.now(), isRead: false};
        window.looks.push(look);
        window.atOnce = Math.max(window.atOnce, window.looks.filter((it) => !it.isRead).length);
        try {
            const answer = await asked(url, options, ...rest);
            if (path.includes("/timeline")) await window.held;
            return answer;
        } finally {
            look.isRead = true;
        }
    };
}"""
FOLLOWED = "(id) => window.streams.at(-1)?.startsWith(`/sessions/${id}/events`)"
LOOKED = "() => window.looks.length"
TOLD = "() => window.looks.filter(({path, isRead}) => isRead && !path.includes('/timeline')).length >= 2"
"""The run was looked at when it was chosen, and again when its stream was there: what came in between is seen."""
CUTS = 6
SAID_SLOWLY_MS = 240
"""Between two looks at a run, less what a timer may be early."""


@pytest.fixture(scope="module", params=[False, True], ids=["a user's", "an operator's"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, Runner, bool]]:
    runner = Runner(worker)
    with serving(create_app(runner, operators=["anonymous"] if request.param else [])) as url:
        yield url, runner, request.param


def words(id: str, *deltas: str, ends: bool = False) -> list[Event]:
    return [
        *([] if not id else [TextMessageStartEvent(message_id=id)]),
        *(TextMessageContentEvent(message_id=id or "m", delta=delta) for delta in deltas),
        *([TextMessageEndEvent(message_id=id or "m"), RunFinishedEvent(thread_id="", run_id="")] if ends else []),
    ]


def shown(browser: Browser, url: str, size: tuple[int, int], tab: str, run: Elsewhere) -> None:
    """The page with this run, whose stream has come, and with nothing left to look at."""
    browser.do("prepare", tab, script=WATCHING)
    browser.do("viewport", tab, width=size[0], height=size[1])
    browser.do("goto", tab, url=f"{url}/runs#{run.id}")
    browser.until(FOLLOWED, run.session_id, tab=tab)
    browser.until(OPEN, tab=tab)
    browser.until(TOLD, tab=tab)


def looks(browser: Browser, tab: str) -> Any:
    return browser.evaluate("() => window.looks", tab=tab)


@SIZES
def test_an_event_of_the_shown_run_is_seen_and_while_none_comes_it_is_only_asked_whether_it_has_moved(
    browser: Browser, served: tuple[str, Runner, bool], size: tuple[int, int]
) -> None:
    url, _, is_operator = served
    tab = f"quiet {size[0]} {url}"
    run = Elsewhere(url)
    run.writes(words("m", "One "))
    shown(browser, url, size, tab, run)
    browser.do("pass", tab, ms=1_000)
    before = browser.evaluate(LOOKED, tab=tab)
    browser.do("pass", tab, ms=10_000)
    asked = looks(browser, tab)[before:]
    assert len(asked) <= 6, "it says nothing, and may have come to another worker"
    before = browser.evaluate(LOOKED, tab=tab)
    run.writes(words("", "two "))
    browser.until(f"() => ({TIMELINE})()?.includes('One two ')", tab=tab)
    run.writes(words("", "three.", ends=True))
    browser.until(f"() => ({ENTRIES})() === 'starts,says,finished'", tab=tab)
    assert "One two three." in str(browser.evaluate(TIMELINE, tab=tab))
    assert len(looks(browser, tab)) - before <= 8, "a look at its record and one at what is new, for each of what came"
    browser.until("() => window.streams.at(-1).startsWith('/feed')", tab=tab)  # there is no more to come
    streams = browser.evaluate("() => window.streams", tab=tab)
    assert [path.partition("?")[0] for path in streams][-2:] == [f"/sessions/{run.session_id}/events", "/feed"]
    assert {"everyone=1" in path for path in streams} == {is_operator}, "and the list's changes come with it"
    assert browser.do("errors") == []


@SIZES
@pytest.mark.parametrize("operators", [["anonymous"], []], ids=["an operator", "a user"])
def test_a_run_that_moves_without_saying_anything_is_seen_to_have_moved(
    browser: Browser, operators: list[str], size: tuple[int, int]
) -> None:
    tab, memory = f"moves {operators} {size[0]}", Memory()
    with serving(create_app(Runner(worker, store=MemoryStore(memory)), operators=operators)) as url:
        run = Elsewhere(url)
        run.writes(words("m", "One "))
        shown(browser, url, size, tab, run)
        owner = memory.runs[run.id].owner
        memory.leave(memory.runs[run.id], HANDED_OVER)  # and nobody takes it
        browser.until(f"() => ({ENTRIES})() === 'starts,says,handed over'", tab=tab)
        said = str(browser.evaluate(TIMELINE, tab=tab))
        assert "its worker was stopped" in said
        assert (f"from {owner} to nobody" in said) is bool(operators)
        memory.moves[run.id].arrive("another", now_ms())
        memory.runs[run.id].owner = "another"
        memory.leave(memory.runs[run.id], PASSED_ON)
        browser.until(f"() => ({ENTRIES})() === 'starts,says,handed over,passed on'", tab=tab)
        said = str(browser.evaluate(TIMELINE, tab=tab))
        assert "its worker does not have the agent" in said
        assert (f"from {owner} to another" in said) is bool(operators), "the row says where it came to"
        assert browser.do("errors") == []


@SIZES
def test_a_run_that_says_much_is_looked_at_now_and_then_and_at_its_end(
    browser: Browser, served: tuple[str, Runner, bool], size: tuple[int, int]
) -> None:
    url, _, _ = served
    tab = f"much {size[0]} {url}"
    run = Elsewhere(url)
    run.writes(words("m", "It says"))
    shown(browser, url, size, tab, run)
    first = browser.evaluate(LOOKED, tab=tab)
    browser.evaluate("() => { window.atOnce = 0 }", tab=tab)
    for n in range(100):
        run.writes(words("", f" {n}"))
    run.writes(words("", ".", ends=True))
    browser.until(f"() => ({ENTRIES})() === 'starts,says,finished'", tab=tab)
    said = "It says" + "".join(f" {n}" for n in range(100)) + "."
    assert said in str(browser.evaluate(TIMELINE, tab=tab))
    began = [look["at"] for look in looks(browser, tab)[first:] if "/timeline" not in look["path"]]
    pauses = [later - sooner for sooner, later in itertools.pairwise(began)]
    assert all(pause > SAID_SLOWLY_MS for pause in pauses), pauses
    assert browser.evaluate("() => window.atOnce", tab=tab) == 1
    assert browser.do("errors") == []


@SIZES
def test_over_cuts_nothing_of_the_shown_run_is_missed(browser: Browser, size: tuple[int, int]) -> None:
    tab = f"cut {size[0]}"
    with (
        serving(create_app(Runner(worker))) as url,
        Cutter(url, "abrupt", cuts=CUTS, after_bytes=(700, 1400)) as cutter,
    ):
        run = Elsewhere(url)
        run.writes(words("m", "It says"))
        shown(browser, cutter.url, size, tab, run)
        said = "It says"
        while cutter.cuts.total() < CUTS:
            run.writes(words("", " more"))
            said += " more"
            browser.until(f"(said) => ({TIMELINE})()?.includes(said)", said, tab=tab)
        run.writes(words("", ".", ends=True))
        browser.until(f"() => ({ENTRIES})() === 'starts,says,finished'", tab=tab)
        assert f"{said}." in str(browser.evaluate(TIMELINE, tab=tab))
        assert browser.do("errors") == []


@SIZES
def test_another_run_is_chosen_and_the_stream_of_the_one_before_left(
    browser: Browser, served: tuple[str, Runner, bool], size: tuple[int, int]
) -> None:
    url, runner, _ = served
    tab = f"another {size[0]} {url}"
    one, other = Elsewhere(url), Elsewhere(url)
    one.writes(words("m", "This one. "))
    other.writes(words("m", "The other. "))

    def followed(*runs: Elsewhere) -> list[int]:
        return [runner.worker.conversations.followers_of(run.session_id) for run in runs]

    shown(browser, url, size, tab, one)
    assert followed(one, other) == [1, 0]
    browser.evaluate("(id) => { location.hash = id }", other.id, tab=tab)
    browser.until(FOLLOWED, other.session_id, tab=tab)
    asyncio.run(until(lambda: followed(one, other) == [0, 1], "the one's stream is left"))
    browser.until(f"() => ({TIMELINE})()?.includes('The other. ')", tab=tab)
    one.writes(words("", "Not seen. "))
    other.writes(words("", "Seen. "))
    browser.until(f"() => ({TIMELINE})()?.includes('The other. Seen. ')", tab=tab)
    asked = browser.evaluate("(id) => window.looks.filter(({path}) => path.includes(id)).length", one.id, tab=tab)
    browser.evaluate("(id) => { location.hash = id }", one.id, tab=tab)
    browser.until(f"() => ({TIMELINE})()?.includes('This one. Not seen. ')", tab=tab)
    browser.until(FOLLOWED, one.session_id, tab=tab)
    assert asked <= 4, "at first, and when its stream was there"
    browser.evaluate("() => { location.hash = '' }", tab=tab)
    asyncio.run(until(lambda: followed(one, other) == [0, 0], "and the other's"))
    assert browser.do("errors") == []


def test_while_its_stream_is_away_the_shown_run_is_looked_at(browser: Browser) -> None:
    """The one follower that the server allows is another's."""
    tab = "away"
    with serving(create_app(Runner(worker, limits=Limits(followers_per_run_max=1)))) as url:
        run = Elsewhere(url)
        run.writes(words("m", "One "))
        with httpx2.stream("GET", f"{url}/sessions/{run.session_id}/events", headers=STREAM) as other:
            assert next(other.iter_raw())
            browser.do("prepare", tab, script=WATCHING)
            browser.do("goto", tab, url=f"{url}/runs#{run.id}")
            browser.until(f"() => ({TIMELINE})()?.includes('One ')", tab=tab)
            browser.until(FOLLOWED, run.session_id, tab=tab)
            run.writes(words("", "two "))
            browser.until(f"() => ({TIMELINE})()?.includes('One two ')", tab=tab)
            assert not browser.evaluate(OPEN, tab=tab)
        browser.until(OPEN, tab=tab)


def test_a_run_whose_conversation_may_not_be_read_is_looked_at_and_the_list_told_of(browser: Browser) -> None:
    tab = "kept back"

    def may(user: str, action: str, record: RunRecord | SessionRecord) -> bool:
        return isinstance(record, RunRecord)

    with serving(create_app(Runner(worker), authorize=may)) as url:
        run = Elsewhere(url)
        run.writes(words("m", "One "))
        browser.do("prepare", tab, script=WATCHING)
        browser.do("goto", tab, url=f"{url}/runs#{run.id}")
        browser.until("() => window.streams.at(-1)?.startsWith('/feed')", tab=tab)
        browser.until("() => window.streams.some((it) => it.startsWith('/sessions'))", tab=tab)
        browser.until(OPEN, tab=tab)
        run.writes(words("", "two ", ends=True))
        browser.until(f"() => ({ENTRIES})() === 'starts,says,finished'", tab=tab)
        assert "One two " in str(browser.evaluate(TIMELINE, tab=tab))
        assert browser.evaluate("() => document.getElementById('alert').hidden", tab=tab)


def test_what_comes_late_of_a_run_that_was_shown_before_is_dropped(browser: Browser) -> None:
    tab = "late"
    with serving(create_app(Runner(worker))) as url:
        one, other = Elsewhere(url), Elsewhere(url)
        one.writes([*words("m", "One "), TextMessageEndEvent(message_id="m")])
        other.writes(words("m", "Other "))
        shown(browser, url, (1280, 860), tab, one)
        browser.evaluate("() => { window.held = new Promise((resolve) => { window.release = resolve }) }", tab=tab)
        one.writes(words("n", "Two "))
        browser.until("() => window.looks.at(-1).path.includes('/timeline') && !window.looks.at(-1).isRead", tab=tab)
        for run in (other, one):
            browser.evaluate("(id) => { location.hash = id }", run.id, tab=tab)
        browser.until(
            "(id) => window.looks.filter((it) => it.path.endsWith(`${id}/timeline?after=0`)).length === 2",
            one.id,
            tab=tab,
        )
        browser.evaluate("() => window.release()", tab=tab)
        browser.until(f"() => ({ENTRIES})() === 'starts,says,says'", tab=tab)
        assert "One " in str(browser.evaluate(TIMELINE, tab=tab))
        assert browser.do("errors") == []
