"""The window on what runs, in a real Chromium over a real server: at a desk and on a phone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gapless import Runner, create_app
from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    Interrupt,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.testing import serving
from tests.support.browser import Browser, browsing

SIZES = pytest.mark.parametrize("size", [(1280, 860), (390, 780)], ids=["at a desk", "on a phone"])
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
FORM = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHOOSE = """(status) => { const it = document.querySelector("[data-testid=status]"); it.value = status;
    it.dispatchEvent(new Event("input", {bubbles: true})) }"""
REFUSING = """() => {
    const asked = window.fetch;
    Object.assign(window, {refusing: true, lists: 0});
    window.fetch = async (url, ...rest) => {
        if (window.refusing && String(url).endsWith("/cancel"))
            return Response.json({error: {code: "run_waits", message: "Not now, the run is saved"}}, {status: 409});
        const answer = await asked(url, ...rest);
        if (/runs[?]/.test(url)) window.lists += 1;
        return answer;
    };
}"""
KEYS = "alice=alice-has-a-long-key,bob=bob-has-a-longer-key,olga=olga-sees-everything"
TEXTS = "() => [...document.querySelectorAll('[data-testid=row] .message')].map((it) => it.textContent).join()"
TIMELINE = "() => document.getElementById('timeline').textContent"  # what is not in view is not laid out
ENTRIES = "() => [...document.querySelectorAll('[data-testid=entry]')].map((it) => it.dataset.what).join()"


async def worker(ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Calls a tool and says what it is told; asks, fails or never ends where it is told to."""
    if ctx.message == "ask":
        (answer,) = await ctx.interrupt([Interrupt(id="may", reason="question", message="May I?")])
        yield f"It was {answer.payload}."
        return
    if ctx.message == "form":
        asked = Interrupt(id="where", reason="question", message="Where to?", response_schema=FORM)
        (answer,) = await ctx.interrupt([asked])
        yield f"To {answer.payload['city']}."
        return
    if ctx.message == "fail":
        raise ValueError("secret")
    yield ToolCallStartEvent(tool_call_id="t", tool_call_name="look_up")
    yield ToolCallArgsEvent(tool_call_id="t", delta='{"what": "a lamp"}')
    yield ToolCallEndEvent(tool_call_id="t")
    await asyncio.sleep(0.15)  # so that there is a time between
    yield ToolCallResultEvent(message_id="t2", tool_call_id="t", content="a lamp of brass")
    ctx.add_usage(TokenUsage(provider="openai", model="gpt-4o", input_tokens=1200, output_tokens=34))
    yield "Here is "
    if ctx.message == "wait":
        await asyncio.Event().wait()
    yield "a lamp."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(create_app(Runner(worker))) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(autouse=True)
def leaving(browser: Browser) -> Iterator[None]:
    yield
    browser.do("leave")


def opened(browser: Browser, url: str, size: tuple[int, int], tab: str) -> None:
    browser.do("viewport", tab, width=size[0], height=size[1])
    browser.do("goto", tab, url=f"{url}/runs")


def start(browser: Browser, tab: str, message: str) -> str:
    """Ask from the page itself, as its user."""
    script = """(message) => fetch("runs", {method: "POST", headers: {"content-type": "application/json"},
        body: JSON.stringify({message})}).then((it) => it.json()).then((it) => it.id)"""
    return str(browser.evaluate(script, message, tab=tab))


def faults(browser: Browser, tab: str) -> Any:
    browser.evaluate(f"() => {{ {AXE.read_text()} }}", tab=tab)
    script = """() => axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
        .then(({violations, incomplete}) => [
            ...violations.flatMap(({id, nodes}) => nodes.map(({html}) => `${id}: ${html}`)),
            ...incomplete.flatMap(({nodes}) => nodes)  // a text in the colour of its ground, for axe, is to look at
                .filter(({any}) => any.some(({data}) => data?.messageKey === "equalRatio"))
                .map(({html}) => `unseen: ${html}`)])"""
    return browser.evaluate(script, tab=tab)


@SIZES
def test_a_run_is_found_and_its_timeline_read(browser: Browser, url: str, size: tuple[int, int]) -> None:
    tab = f"found {size[0]}"
    browser.do("viewport", tab, width=size[0], height=size[1])
    browser.do("goto", tab, url=url)  # the chat page leads there
    browser.do("click", tab, selector="[data-testid=more]")
    browser.do("press", tab, selector="[data-testid=to-runs]", key="Enter")
    browser.until("() => document.getElementById('runs') !== null && location.pathname === '/runs'", tab=tab)
    run_id = start(browser, tab, f"a lamp {size[0]}")
    start(browser, tab, "fail")
    browser.until(f"() => ({TEXTS})().includes('fail,a lamp {size[0]}')", tab=tab)  # the list is live
    assert faults(browser, tab) == []
    browser.do("fill", tab, selector="[data-testid=error]", value="VALUEERROR")
    browser.until(f"() => new Set(({TEXTS})().split(',')).size === 1 && ({TEXTS})().startsWith('fail')", tab=tab)
    browser.do("fill", tab, selector="[data-testid=error]", value="")
    browser.until(f"() => ({TEXTS})().includes('a lamp {size[0]}')", tab=tab)
    browser.do("press", tab, selector=f"[data-testid=row][href='#{run_id}']", key="Enter")
    browser.until(f"() => ({ENTRIES})() === 'starts,calls,result,says,finished'", tab=tab)
    shown = str(browser.evaluate("() => document.getElementById('run').innerText", tab=tab))
    shown += str(browser.evaluate(TIMELINE, tab=tab))
    parts = (
        "look_up",
        '"what": "a lamp"',
        "a lamp of brass",
        "Here is a lamp.",
        "First token after",
        "gpt-4o",
        "1,200",
    )
    for part in parts:
        assert part in shown
    assert browser.evaluate("() => /[+]0[.]\\d\\d s/.test(document.getElementById('timeline').textContent)", tab=tab)
    browser.do("click", tab, selector="#journal summary")
    browser.until("() => document.querySelector('#journal pre')?.textContent.includes('RUN_STARTED')", tab=tab)
    assert faults(browser, tab) == []
    browser.do("reload", tab)  # its address is a link to it
    browser.until(f"() => ({ENTRIES})() === 'starts,calls,result,says,finished'", tab=tab)
    browser.do("click", tab, selector="[data-testid=more]")  # and back
    browser.do("press", tab, selector="[data-testid=to-chat]", key="Enter")
    browser.until("() => document.getElementById('composer') !== null && location.pathname === '/'", tab=tab)
    assert browser.do("errors") == []


@SIZES
def test_a_run_is_followed_cancelled_asked_again_and_replayed(
    browser: Browser, url: str, size: tuple[int, int]
) -> None:
    tab = f"followed {size[0]}"
    opened(browser, url, size, tab)
    run_id = start(browser, tab, "wait")
    browser.evaluate("(id) => { location.hash = id }", run_id, tab=tab)
    browser.until(f"() => ({ENTRIES})() === 'starts,calls,result,says'", tab=tab)
    for scheme in ("dark", "light"):
        browser.do("scheme", tab, value=scheme)
        assert faults(browser, tab) == []
    browser.do("click", tab, selector="[data-testid=cancel]")
    browser.until(f"() => ({ENTRIES})() === 'starts,calls,result,says,cancelled'", tab=tab)
    browser.do("click", tab, selector="[data-testid=replay]")
    browser.until(
        "() => !document.querySelector('[data-replaying]') && !document.querySelector('[data-testid=entry][hidden]')",
        tab=tab,
    )
    browser.do("click", tab, selector="[data-testid=again]")
    again = f"(id) => location.hash !== '#' + id && ({ENTRIES})() === 'starts,calls,result,says'"
    browser.until(again, run_id, tab=tab)
    browser.do("press", tab, selector="[data-testid=cancel]", key="Enter")
    browser.until(f"() => ({ENTRIES})().endsWith('cancelled')", tab=tab)
    assert browser.do("errors") == []


@SIZES
def test_a_question_is_answered(browser: Browser, url: str, size: tuple[int, int]) -> None:
    tab = f"asked {size[0]}"
    opened(browser, url, size, tab)
    browser.evaluate("(id) => { location.hash = id }", start(browser, tab, "ask"), tab=tab)
    browser.until("() => document.getElementById('answer')?.hidden === false", tab=tab)
    assert faults(browser, tab) == []
    browser.do("fill", tab, selector="[data-testid=answer-text]", value="gladly")
    browser.do("click", tab, selector="#answer [type=submit]")
    browser.until(f"() => ({ENTRIES})() === 'starts,waits,goes on,says,finished'", tab=tab)
    assert "gladly" in str(browser.evaluate(TIMELINE, tab=tab))


def test_what_is_refused_is_said_until_it_is_done(browser: Browser, url: str) -> None:
    opened(browser, url, (1280, 860), "refused")
    browser.evaluate("(id) => { location.hash = id }", start(browser, "refused", "wait"), tab="refused")
    browser.until(f"() => ({ENTRIES})() === 'starts,calls,result,says'", tab="refused")
    browser.evaluate(REFUSING, tab="refused")
    browser.do("click", "refused", selector="[data-testid=cancel]")
    browser.until("() => window.lists > 0", tab="refused")  # the list was read again
    alert = "() => document.getElementById('alert').innerText"
    assert browser.evaluate(alert, tab="refused") == "Not now, the run is saved (run_waits)"
    browser.evaluate("() => { window.refusing = false }", tab="refused")
    browser.do("click", "refused", selector="[data-testid=cancel]")
    browser.until(f"() => ({ENTRIES})().endsWith('cancelled') && ({alert})() === ''", tab="refused")


def test_a_form_is_filled_in_and_its_run_leaves_the_list_of_those_that_wait(browser: Browser, url: str) -> None:
    opened(browser, url, (1280, 860), "form")
    browser.evaluate(CHOOSE, "waiting", tab="form")
    run_id = start(browser, "form", "form")
    browser.evaluate("(id) => { location.hash = id }", run_id, tab="form")
    row = f"() => document.querySelector('[data-testid=row][href=\"#{run_id}\"]')"
    browser.until(f"() => ({row})()?.querySelector('.status').textContent === 'waiting'", tab="form")
    browser.until("() => document.querySelector('#answer input') !== null", tab="form")
    assert faults(browser, "form") == []
    browser.do("fill", "form", selector="#answer input", value="Aarhus")
    browser.do("click", "form", selector="#answer [type=submit]")
    browser.until(f"() => ({ENTRIES})() === 'starts,waits,goes on,says,finished'", tab="form")
    assert "To Aarhus." in str(browser.evaluate(TIMELINE, tab="form"))
    browser.until(f"() => ({row})() === null", tab="form")
    browser.evaluate(CHOOSE, "", tab="form")
    browser.until(f"() => ({row})()?.querySelector('.status').textContent === 'finished'", tab="form")


def test_users_see_their_own_and_an_operator_all(monkeypatch: pytest.MonkeyPatch, browser: Browser) -> None:
    monkeypatch.setenv("GAPLESS_API_KEYS", KEYS)
    with serving(create_app(Runner(worker), operators=["olga"])) as url:
        for user, key in (pair.split("=") for pair in KEYS.split(",")):
            browser.do("goto", user, url=f"{url}/runs")
            browser.evaluate("(key) => sessionStorage.setItem('gapless.key', key)", key, tab=user)
            browser.do("reload", user)
            script = """([key, message]) => fetch("runs", {method: "POST", body: JSON.stringify({message}),
                headers: {"content-type": "application/json", authorization: `Bearer ${key}`}})"""
            if user != "olga":
                browser.evaluate(f"(it) => ({script})(it).then(() => true)", [key, f"by {user}"], tab=user)
        browser.until(f"() => ({TEXTS})() === 'by alice'", tab="alice")
        browser.until(f"() => ({TEXTS})() === 'by bob,by alice'", tab="olga")
        browser.do("fill", "olga", selector="[data-testid=user]", value="alice")
        browser.until(f"() => ({TEXTS})() === 'by alice'", tab="olga")


def test_a_link_that_is_none_leaves_the_list(browser: Browser, url: str) -> None:
    tab = "no link"
    browser.do("goto", tab, url=f"{url}/runs")
    start(browser, tab, "a lamp")
    browser.do("goto", tab, url=f"{url}/runs#%zz")
    browser.do("reload", tab)
    browser.until(f"() => ({TEXTS})().includes('a lamp')", tab=tab)
