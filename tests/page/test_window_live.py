"""The window is told what changes, and draws what is new: in a real Chromium, at a desk and on a phone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import httpx2
import pytest

from gapless import Agent, Limits, Runner, create_app
from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    Event,
    Interrupt,
    ResumeEntry,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    encode_event,
)
from gapless.journals import finding
from gapless.journals.memory import MemoryStore
from gapless.records import RunStatus
from gapless.testing import serving
from gapless.testing.place import Place
from tests.page.test_window import ENTRIES, SIZES, TEXTS, TIMELINE, browser, faults, leaving, opened, start
from tests.support.browser import Browser
from tests.support.waiting import until

__all__ = ["browser", "leaving"]  # the fixtures

JSON = {"content-type": "application/json"}
OPEN = "() => document.getElementById('connection').dataset.state === 'open'"
WATCHING = """() => {
    const asked = window.fetch;
    window.lists = [];
    window.fetch = async (url, ...rest) => {
        const isList = /runs[?]/.test(url);
        const said = isList && window.lists.push({url: String(url), isRead: false});
        const answer = await asked(url, ...rest);
        if (isList) window.lists[said - 1].isRead = true;
        return answer;
    };
}"""
ALL_ENDED = """() => [...document.querySelectorAll("[data-testid=row]")].every((it) => {
    const [status, message] = [".status", ".message"].map((name) => it.querySelector(name).textContent);
    return message === "wait" || status === "finished";
})"""
TWICE = """() => window.lists.filter(({url, isRead}) => isRead && !/[?&](after|session_id)=/.test(url)).length === 2"""
"""The list was read when the page came, and again when the stream did: what changed in between was told by neither."""
STATUS = """(id) => document.querySelector(`[data-testid=row][href='#${id}'] .status`)?.textContent"""


async def worker(ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Says what it is told; never ends where it is told to wait, fails where it is told to, and thinks for a second."""
    if ctx.message == "fail":
        raise ValueError("secret")
    if ctx.message == "slow":
        yield "One "
        await asyncio.sleep(1.1)  # it is shown that nothing happened
        yield ToolCallStartEvent(tool_call_id="t", tool_call_name="look_up")
        yield ToolCallEndEvent(tool_call_id="t")
        yield ToolCallResultEvent(message_id="t2", tool_call_id="t", content="found")
    if ctx.message == "ask":
        await ctx.interrupt([Interrupt(id="may", reason="question", message="May I?")])
    yield "said"
    if ctx.message == "wait":
        await asyncio.Event().wait()


@pytest.fixture(scope="module", params=[False, True], ids=["a user's", "an operator's"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    app = create_app(Runner(worker), operators=["anonymous"] if request.param else [])
    with serving(app) as url:
        yield url


@SIZES
def test_every_row_is_kept_up_to_date_by_what_the_stream_tells(
    browser: Browser, url: str, size: tuple[int, int]
) -> None:
    tab = f"told {size[0]} {url}"
    browser.do("prepare", tab, script=WATCHING)
    opened(browser, url, size, tab)
    browser.until(OPEN, tab=tab)
    oldest = start(browser, tab, "wait")
    for n in range(60):
        start(browser, tab, f"m{n}")
    browser.until(f"() => ({TEXTS})().startsWith('m59,m58')", tab=tab)
    browser.until(ALL_ENDED, tab=tab)
    browser.do("reload", tab)
    browser.until("() => document.getElementById('older').hidden === false", tab=tab)
    browser.do("click", tab, selector="#older")
    browser.until(f"(id) => ({STATUS})(id) === 'running'", oldest, tab=tab)
    browser.until(OPEN, tab=tab)
    browser.until(TWICE, tab=tab)
    browser.evaluate("() => { window.lists = [] }", tab=tab)
    httpx2.post(f"{url}/runs/{oldest}/cancel").raise_for_status()
    browser.until(f"(id) => ({STATUS})(id) === 'cancelled'", oldest, tab=tab)
    browser.do("pass", tab, ms=10_000)
    asked = browser.evaluate("() => window.lists.map((it) => it.url)", tab=tab)
    assert asked, "what has changed is looked at"
    assert [one for one in asked if "session_id=" not in one] == [], "and that alone, as long as the stream is there"
    assert browser.do("errors") == []


def test_older_runs_wait_for_a_look_that_is_under_way_and_would_drop_them(browser: Browser) -> None:
    tab = "held"
    holding = """() => {
        const asked = window.fetch;
        const held = new Promise((resolve) => { window.release = resolve });
        Object.assign(window, {isHeld: false, older: 0});
        window.fetch = async (url, ...rest) => {
            if (/runs[?].*after=/.test(url)) window.older += 1;
            const answer = await asked(url, ...rest);
            if (/runs[?]/.test(url) && window.older === 0) {
                window.isHeld = true;
                await held;
            }
            return answer;
        };
    }"""
    with serving(create_app(Runner(worker))) as url:
        for n in range(60):
            httpx2.post(f"{url}/runs", json={"message": f"m{n}"}).raise_for_status()
        opened(browser, url, (1280, 860), tab)
        browser.until("() => document.getElementById('older').hidden === false", tab=tab)
        browser.evaluate(holding, tab=tab)
        for n in range(60, 66):  # of so many that have changed the list is read again
            httpx2.post(f"{url}/runs", json={"message": f"m{n}"}).raise_for_status()
        browser.until("() => window.isHeld", tab=tab)
        asked = browser.evaluate("() => (document.getElementById('older').click(), window.older)", tab=tab)
        assert asked == 0, "while it is under way"
        browser.evaluate("() => window.release()", tab=tab)
        wanted = ",".join(f"m{n}" for n in reversed(range(66)))
        browser.until(f"(wanted) => ({TEXTS})() === wanted", wanted, tab=tab)
        assert browser.do("errors") == []


def test_while_the_stream_is_away_the_list_is_looked_at(browser: Browser) -> None:
    """The one follower that the server allows is another's."""
    app = create_app(Runner(worker, limits=Limits(followers_per_run_max=1)))
    with serving(app) as url, httpx2.stream("GET", f"{url}/feed") as other:
        come = other.iter_raw()
        assert next(come)
        opened(browser, url, (1280, 860), "away")
        start(browser, "away", "a lamp")
        browser.until(f"() => ({TEXTS})() === 'a lamp'", tab="away")
        assert not browser.evaluate(OPEN, tab="away")


@SIZES
def test_what_is_rare_is_searched_for_and_the_page_says_how_far(
    browser: Browser, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = "rare"
    monkeypatch.setattr(finding, "LOOKED_MAX", 5)
    with serving(create_app(Runner(agents={"often": worker, "rare": worker}))) as url:
        for n in range(32):
            body = {"message": f"m{n}", "agent": "rare" if n == 1 else "often"}
            httpx2.post(f"{url}/runs", json=body).raise_for_status()
        opened(browser, url, size, tab)
        watching = """() => {
            window.said = [];
            const node = document.getElementById("runs-end");
            new MutationObserver(() => window.said.push(node.textContent))
                .observe(node, {childList: true, characterData: true, subtree: true});
        }"""
        browser.evaluate(watching, tab=tab)
        browser.do("fill", tab, selector="[data-testid=agent]", value="rare")
        browser.until(f"() => ({TEXTS})() === 'm1' && document.getElementById('runs-end').textContent === ''", tab=tab)
        said = browser.evaluate("() => window.said", tab=tab)
        assert [it for it in said if it.startswith("Looked at 5 of 32 runs")], said
        assert [it for it in said if it.startswith("Looked at 30 of 32 runs")], said
        browser.do("fill", tab, selector="[data-testid=agent]", value="nobody")
        browser.until("() => document.getElementById('runs-end').textContent === 'No runs are like that.'", tab=tab)
        assert faults(browser, tab) == []


class Elsewhere:
    """A run whose events the test writes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._number = 0
        made = httpx2.post(f"{url}/runs", json={"message": "elsewhere", "producer": True}).raise_for_status()
        self.id, self.session_id = (made.json()[name] for name in ("id", "session_id"))

    def writes(self, events: Sequence[Event]) -> None:
        self._number += 1
        body = b'{"producer":"p","epoch":1,"number":%d,"events":[%b]}'
        data = body % (self._number, b",".join(map(encode_event, events)))
        httpx2.post(f"{self._url}/runs/{self.id}/events", content=data, headers=JSON).raise_for_status()


@SIZES
def test_what_is_new_is_drawn_and_what_is_selected_focused_and_in_view_stays(
    browser: Browser, url: str, size: tuple[int, int]
) -> None:
    tab = "grows"
    run = Elsewhere(url)
    texts = [f"It is number {n}." for n in range(40)]
    for n, text in enumerate(texts):
        run.writes([TextMessageStartEvent(message_id=f"m{n}"), TextMessageContentEvent(message_id=f"m{n}", delta=text)])
        if n < len(texts) - 1:
            run.writes([TextMessageEndEvent(message_id=f"m{n}")])
    opened(browser, url, size, tab)
    browser.evaluate("(id) => { location.hash = id }", run.id, tab=tab)
    browser.until(f"() => ({TIMELINE})()?.includes('number 39.')", tab=tab)
    marking = """() => {
        const rows = [...document.querySelectorAll("[data-testid=entry]")];
        const last = rows.at(-1).querySelector("pre");
        last.focus();
        rows.at(-1).scrollIntoView();
        const range = document.createRange();
        range.setStart(last.firstChild, 3);
        range.setEnd(last.firstChild, 9);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        Object.assign(window, {marked: rows, drawn: 0});
        new MutationObserver((changes) => {
            window.drawn += changes.flatMap((it) => [...it.addedNodes]).filter((it) => it.matches?.("li")).length;
        }).observe(document.getElementById("timeline"), {childList: true});
    }"""
    browser.evaluate(marking, tab=tab)
    settled = """() => new Promise((resolve) => {
        const topOf = () => document.activeElement.closest("li").getBoundingClientRect().top;
        let frames = 0;
        window.top0 = topOf();
        requestAnimationFrame(function look() {
            if (topOf() !== window.top0) resolve(false);
            else if ((frames += 1) === 10) resolve(true);
            else requestAnimationFrame(look);
        });
    })"""  # rows near the view are laid out frame by frame
    browser.until(settled, tab=tab)
    run.writes([TextMessageContentEvent(message_id="m39", delta=" And more."), TextMessageEndEvent(message_id="m39")])
    run.writes([TextMessageStartEvent(message_id="new"), TextMessageContentEvent(message_id="new", delta="A new one.")])
    browser.until(f"() => ({TIMELINE})().includes('39. And more.') && ({TIMELINE})().includes('A new one.')", tab=tab)
    stands = """() => {
        const rows = [...document.querySelectorAll("[data-testid=entry]")];
        return {
            same: window.marked.every((row, n) => row === rows[n]),
            drawn: window.drawn,
            selected: String(getSelection()),
            focused: document.activeElement === rows.at(-2).querySelector("pre"),
            moved: Math.round(rows.at(-2).getBoundingClientRect().top - window.top0),
        };
    }"""
    stood = browser.evaluate(stands, tab=tab)
    assert stood == {"same": True, "drawn": 1, "selected": "is num", "focused": True, "moved": 0}
    assert browser.do("errors") == []


@SIZES
def test_what_a_sub_agent_does_stands_in_it_and_a_retry_behind_what_failed(
    browser: Browser, url: str, size: tuple[int, int]
) -> None:
    tab = "nested"
    run = Elsewhere(url)

    def calls(id: str, error: str | None) -> list[Event]:
        return [
            ToolCallStartEvent(tool_call_id=id, tool_call_name="look_up", subagent_run_id="inner"),
            ToolCallEndEvent(tool_call_id=id),
            ToolCallResultEvent(message_id=f"{id}r", tool_call_id=id, content=error or "found", error=error),
        ]

    run.writes(
        [
            SubagentStartedEvent(name="planner", subagent_run_id="outer"),
            SubagentStartedEvent(name="reader", subagent_run_id="inner", parent_subagent_run_id="outer"),
            *calls("one", "It was busy"),
            *calls("two", None),
            SubagentFinishedEvent(subagent_run_id="inner"),
            SubagentFinishedEvent(subagent_run_id="outer"),
        ]
    )
    opened(browser, url, size, tab)
    browser.evaluate("(id) => { location.hash = id }", run.id, tab=tab)
    wanted = "starts,sub-agent,sub-agent,calls,error,calls,result"
    browser.until(f"(wanted) => ({ENTRIES})() === wanted", wanted, tab=tab)
    lefts = """() => [...document.querySelectorAll("[data-testid=entry]")]
        .map((it) => [it.dataset.depth, it.firstElementChild.getBoundingClientRect().left])"""
    depths = browser.evaluate(lefts, tab=tab)
    assert [depth for depth, _ in depths][:4] == ["0", "0", "1", "2"]
    by_depth = dict(depths)
    assert by_depth["0"] < by_depth["1"] < by_depth["2"], "and it is seen"
    shown = str(browser.evaluate(TIMELINE, tab=tab))
    for part in ("calls · in reader", "sub-agent · in planner", "It was busy", "found"):
        assert part in shown
    assert faults(browser, tab) == []


@SIZES
def test_gaps_are_said_and_the_first_token_does_not_count_what_a_person_took(
    browser: Browser, url: str, size: tuple[int, int]
) -> None:
    tab = "gaps"
    opened(browser, url, size, tab)
    run_id = start(browser, tab, "slow")
    browser.evaluate("(id) => { location.hash = id }", run_id, tab=tab)
    browser.until(f"() => ({ENTRIES})() === 'starts,says,calls,result,says,finished'", tab=tab)
    gaps = browser.evaluate(
        "() => [...document.querySelectorAll('[data-testid=gap]')].map((it) => it.textContent)", tab=tab
    )
    (gap,) = gaps
    assert gap.endswith(" s without an event")
    assert float(gap.split()[0]) >= 1
    first = """() => [...document.querySelectorAll("#run dt")].find((it) => it.textContent === "First token after")
        .nextElementSibling.textContent"""
    assert float(browser.evaluate(first, tab=tab).removesuffix(" s")) < 60
    asked = start(browser, tab, "ask")
    browser.evaluate("(id) => { location.hash = id }", asked, tab=tab)
    browser.until("() => document.getElementById('answer')?.hidden === false", tab=tab)
    began = asyncio.run(time_of(url, asked))
    answer = {"resume": [{"interruptId": "may", "status": "resolved", "payload": "yes"}]}
    httpx2.post(f"{url}/runs/{asked}/input", json=answer).raise_for_status()
    browser.until(f"() => ({ENTRIES})() === 'starts,waits,goes on,says,finished'", tab=tab)
    told = httpx2.get(f"{url}/runs/{asked}/timeline").json()
    waited = told["entries"][2]["at"] - told["entries"][1]["at"]
    assert told["waited_ms"] == waited
    shown = float(browser.evaluate(first, tab=tab).removesuffix(" s"))
    assert shown == pytest.approx((told["first_token_at"] - began - waited) / 1000, abs=0.011)


async def time_of(url: str, run_id: str) -> int:
    async with httpx2.AsyncClient() as client:
        return int((await client.get(f"{url}/runs/{run_id}")).json()["started_at"])


class Steps(Agent):
    """Says half, and whole once the gate is open; then asks. It saves after each."""

    continues = "from_checkpoint"
    name = "steps"

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        done = int(ctx.checkpoint or b"0")
        if done < 1:
            yield "one "
            await ctx.save(b"1")
        if done < 2:
            yield "half "
            await self._gate.wait()
            yield "whole "
            await ctx.save(b"2")
        await ctx.interrupt([Interrupt(id="q", reason="question", message="Go on?")])
        yield "end"


async def moved(place: Place) -> list[str]:
    """Bring run "r" through four workers, whose ids are returned: the first is lost, the second is stopped while it is
    at work, the third while it waits for a person, the fourth ends it."""
    shut, opened = asyncio.Event(), asyncio.Event()
    opened.set()
    lost, stopped = await place.worker(Steps(shut)), await place.worker(Steps(shut))
    ids = [lost.worker_id, stopped.worker_id]
    await lost.start("by four", run_id="r", agent="agent", user_id="anonymous")
    await until(lambda: place.record().last_seq >= 4, "half of it is said")
    await place.lose(lost, stopped)
    await until(lambda: place.record().last_seq >= 8, "it is said anew")
    third = await place.worker(Steps(opened))
    await stopped.close(grace_s=0)
    await until(lambda: place.record().status is RunStatus.WAITING, "the third asks")
    last = await place.worker(Steps(opened))
    await third.close()
    await last.answer("r", [ResumeEntry(interrupt_id="q", status="resolved", payload="yes")])
    await (await last.attach("r")).collect()
    return [*ids, third.worker_id, last.worker_id]


@SIZES
@pytest.mark.parametrize("operators", [["anonymous"], []], ids=["an operator", "a user"])
def test_a_run_that_moved_says_so_and_operators_are_told_from_which_worker_to_which(
    browser: Browser, operators: list[str], size: tuple[int, int]
) -> None:
    tab = f"workers {operators}"
    place = Place()

    async def happens() -> list[str]:
        try:
            return await moved(place)
        finally:
            await place.close()

    first, second, third, last = ids = asyncio.run(happens())
    app = create_app(Runner(worker, store=MemoryStore(place.memory)), operators=operators)
    with serving(app) as url:
        opened(browser, url, size, tab)
        browser.do("click", tab, selector="[data-testid=row][href='#r']")
        browser.until(f"() => ({ENTRIES})().endsWith('finished')", tab=tab)
        wanted = "starts,says,taken over,takes back,says,handed over,takes back,says,waits,parked,goes on,says,finished"
        assert browser.evaluate(ENTRIES, tab=tab) == (wanted if operators else wanted.replace("parked,", ""))
        shown = str(browser.evaluate(TIMELINE, tab=tab))
        assert "its worker was lost" in shown
        assert "its worker was stopped" in shown
        if operators:
            for said in (
                f"at worker {first}",
                f"from {first} to {second}: its worker was lost",
                f"from {second} to {third}: its worker was stopped",
                f"from {third} to {last}: no worker has it while it waits",
            ):
                assert said in shown
            assert last in str(browser.evaluate("() => document.querySelector('#run dl').innerText", tab=tab))
        else:
            page = str(browser.evaluate("() => document.body.textContent", tab=tab))
            assert [id for id in ids if id in page] == []
        assert faults(browser, tab) == []
