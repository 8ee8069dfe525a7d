"""The bell with a real server: what it sends, a push service's browser decrypts and the page's worker shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gapless import Runner, create_app
from gapless.testing import serving
from tests.support.browser import Browser, browsing
from tests.support.push_service import PushService, push_config

STUB = """(subscription) => {
  let permission = "default";
  Object.defineProperty(Notification, "permission", { get: () => permission });
  PushManager.prototype.subscribe = async () => {
    permission = "granted";
    return subscription;
  };
}"""
"""The tests' Chromium has no push service, and no place for notifications."""


async def agent(message: str) -> AsyncIterator[str]:
    yield "a secret"


def rings(browser: Browser, url: str, subscription: object) -> None:
    browser.do("goto", url=url)
    browser.until("() => document.getElementById('bell').dataset.state")
    browser.evaluate(STUB, subscription)
    browser.do("click", selector="[data-testid=bell]")
    browser.until("() => document.getElementById('bell').dataset.state === 'on'")
    browser.do("fill", selector="#message", value="When do trains leave?")
    browser.do("press", selector="#message", key="Enter")
    browser.until("() => document.getElementById('messages').textContent.includes('a secret')")


@pytest.mark.parametrize("prefix", ["", "/agents"])
async def test_what_the_server_tells_a_browser_its_worker_shows(prefix: str) -> None:
    async with PushService() as service:
        app = create_app(Runner(agent, notify=push_config()), path_prefix=prefix)
        with serving(app) as url, browsing() as browser:
            await asyncio.to_thread(rings, browser, f"{url}{prefix}/", service.subscription("phone"))
            await service.until(1)
            (said,) = service.told("phone")
            session = browser.evaluate("() => document.documentElement.dataset.session")
            assert said["session_id"] == session
            assert browser.do("push", message=said) == [], "the page shows it"
            browser.evaluate("() => Object.defineProperty(document, 'hidden', { get: () => true })")
            (shown,) = browser.do("push", message=said)
            assert (shown["title"], shown["body"]) == ("When do trains leave?", "Is done")
            assert shown["tag"] == said["id"]
            assert shown["data"] == {"session": session}
            assert browser.do("errors") == []
            assert "a secret" not in str(said)
