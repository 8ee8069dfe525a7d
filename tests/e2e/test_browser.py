"""The page in a real Chromium against a real server process: reloads, second tabs, cuts, a server that is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gapless.testing import Cutter
from tests.support.browser import Browser, browsing
from tests.support.processes import Server
from tests.support.waiting import WAIT_S

ANSWER = """() => [...document.querySelectorAll('[data-testid=turn]')].at(-1)
    ?.querySelector('[data-testid=answer]')?.textContent ?? ''"""
ANSWER_IS = f"(text) => ({ANSWER})().includes(text)"
IDLE = "() => document.documentElement.dataset.busy === 'false'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.close()


def ask(browser: Browser, text: str, *, tab: str = "one") -> None:
    browser.do("fill", tab, selector="[data-testid=message]", value=text)
    browser.do("press", tab, selector="[data-testid=message]", key="Enter")


def get(server: Server, path: str) -> dict[str, Any]:
    headers = {"accept": "application/json"}
    response = httpx2.get(server.url + path, headers=headers, timeout=WAIT_S, trust_env=False, verify=False)
    return response.json()  # type: ignore[no-any-return]  # all that is asked for here are objects


def last_run(server: Server) -> dict[str, Any]:
    return get(server, "/runs?limit=1")["runs"][0]  # type: ignore[no-any-return]  # a record


def journal_text(server: Server) -> str:
    events = get(server, f"/runs/{last_run(server)['id']}/events?limit=10000")["events"]
    return "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")


def test_ask_see_it_grow_reload_in_mid_answer_and_get_the_journals_text(browser: Browser, server: Server):
    browser.do("goto", url=server.url)
    ask(browser, "first question")
    server.say("alpha", "beta")
    browser.until(ANSWER_IS, "alpha beta")
    server.say("gamma")
    browser.until(ANSWER_IS, "alpha beta gamma")
    browser.do("reload")
    browser.until(ANSWER_IS, "alpha beta gamma")
    server.say("delta")
    browser.until(ANSWER_IS, "alpha beta gamma delta")
    server.say("epsilon", "end")
    browser.until(IDLE)
    assert browser.evaluate(ANSWER).strip() == journal_text(server).strip() == "alpha beta gamma delta epsilon"
    assert server.calls.read_text() == "first question\n", "one model call"
    assert browser.do("errors") == []


def test_the_api_is_described_without_a_script_from_elsewhere(browser: Browser, server: Server):
    browser.do("goto", url=server.url + "/docs")
    described = get(server, "/openapi.json")["paths"]
    routes = [[method.upper(), path] for path, methods in described.items() for method in methods]
    browser.until("(n) => document.querySelectorAll('details').length === n", len(routes))
    shown = browser.evaluate(
        "() => [...document.querySelectorAll('summary')].map((it) => [...it.children].map((one) => one.textContent))"
    )
    assert sorted(shown) == sorted(routes)
    assert browser.evaluate("() => performance.getEntriesByType('resource').every((it) => it.name.startsWith(origin))")
    browser.do("click", selector="summary")
    assert browser.do("errors") == []


def test_two_tabs_show_the_same_run(browser: Browser, server: Server):
    browser.do("goto", url=server.url)
    ask(browser, "together")
    server.say("alpha")
    browser.until(ANSWER_IS, "alpha")
    address = browser.evaluate("() => location.href")
    browser.do("goto", tab="two", url=address)
    browser.until(ANSWER_IS, "alpha", tab="two")
    server.say("beta", "end")
    for tab in ("one", "two"):
        browser.until(ANSWER_IS, "alpha beta", tab=tab)
        browser.until(IDLE, tab=tab)
    server.forget()
    server.say("gamma", "end")
    ask(browser, "again", tab="two")
    for tab in ("two", "one"):  # the first tab learns of a run that it did not start
        browser.until(ANSWER_IS, "gamma", tab=tab)
    assert server.calls.read_text() == "together\nagain\n"


def test_a_killed_server_shows_what_was_journaled_then_worker_lost_and_the_next_question_works(
    browser: Browser, server: Server
):
    browser.do("goto", url=server.url)
    ask(browser, "doomed question")
    server.say("alpha", "beta")
    browser.until(ANSWER_IS, "alpha beta")
    server.kill()
    browser.until("() => document.querySelector('[data-testid=connection]').dataset.state === 'reconnecting'")
    server.start()
    code = browser.until("() => document.querySelector('[data-testid=run-error]')?.dataset.code")
    assert code == "worker_lost"
    assert "alpha beta" in browser.evaluate(ANSWER)
    server.forget()
    server.say("gamma", "end")
    browser.until(IDLE)
    ask(browser, "next question")
    browser.until(ANSWER_IS, "gamma")
    browser.until(IDLE)
    assert last_run(server)["status"] == "finished"
    messages = get(server, f"/sessions/{last_run(server)['session_id']}/messages")["messages"]
    assert [message["content"].strip() for message in messages] == [
        "doomed question",
        "alpha beta",
        "next question",
        "gamma",
    ]
    assert messages[1]["metadata"]["interrupted"] is True


def test_stop_ends_the_answer_and_keeps_what_was_shown(browser: Browser, server: Server):
    browser.do("goto", url=server.url)
    ask(browser, "long question")
    server.say("alpha")
    browser.until(ANSWER_IS, "alpha")
    browser.do("click", selector="[data-testid=stop]")
    browser.until(IDLE)
    assert last_run(server)["status"] == "cancelled"
    assert "alpha" in browser.evaluate(ANSWER)


EVENT_SOURCE = """(url) => {
  window.seen = [];
  const source = new EventSource(url);
  source.onmessage = (event) => {
    window.seen.push(event.data);
    if (event.data === '[DONE]') source.close();
  };
}"""
SEEN = "(text) => window.seen.map((data) => data[0] === '{' ? JSON.parse(data).text : '').join('').includes(text)"


def test_the_browsers_own_event_source_resumes_by_itself_without_a_second_model_call(browser: Browser, server: Server):
    browser.do("goto", url=server.url + "/health")
    browser.evaluate(EVENT_SOURCE, "/chat/stream?query=hello")
    server.say("alpha")
    browser.until(SEEN, "alpha")
    server.kill()  # the next one closes the run as "worker lost"
    server.start()
    browser.until("() => window.seen.includes('[DONE]')")
    assert server.calls.read_text() == "hello\n"


def test_the_event_source_goes_on_where_a_cut_was(browser: Browser, server: Server):
    # A cut before the browser has an id to send back would begin another run: the first frames come through.
    with Cutter(server.url, "abrupt", cuts=3, after_bytes=(400, 900)) as proxy:
        browser.do("goto", url=proxy.url + "/health")
        browser.evaluate(EVENT_SOURCE, "/chat/stream?query=hello")
        words = [f"word{number}" for number in range(200)]
        server.say(words[0])
        browser.until("() => window.seen.length > 0")
        server.say(*words[1:], "end")
        browser.until("() => window.seen.includes('[DONE]')")
        text = browser.evaluate("() => window.seen.filter((d) => d[0] === '{').map((d) => JSON.parse(d).text).join('')")
        assert text.split() == words
        assert sum(proxy.cuts.values()) == 3
    assert server.calls.read_text() == "hello\n"


LINES = """() => {
document.body.insertAdjacentHTML('beforeend', '<p id="response"></p>');
const eventSource = new EventSource('/chat/stream?query=Hello');

eventSource.onmessage = (event) => {
    if (event.data === '[DONE]') {
        eventSource.close();
        window.ended = 'closed';
        return;
    }
    const data = JSON.parse(event.data);
    document.getElementById('response').innerHTML += data.text;
};

eventSource.onerror = (error) => {
    window.ended = 'failed';
    eventSource.close();
};
}"""
"""What tutorials show of a page that reads a stream: it knows text and the end."""


def test_a_page_of_a_few_lines_shows_the_answer_and_nothing_else(browser: Browser, server: Server):
    browser.do("goto", url=server.url)
    browser.evaluate(LINES)
    shown = "(text) => document.getElementById('response').innerHTML === text"
    server.say("alpha", "beta")
    browser.until(shown, "alpha beta ")
    server.say("gamma", "end")
    browser.until("() => window.ended === 'closed'")
    assert browser.evaluate(shown, "alpha beta gamma ")
    assert server.calls.read_text() == "Hello\n", "one model call"
    assert browser.do("errors") == []
