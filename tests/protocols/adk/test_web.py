"""ADK's own web page, on our routes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from google.adk.agents import LlmAgent

from gapless import Runner, create_app
from gapless.errors import ExtraMissing
from gapless.testing import serving
from tests.support.adk import Call, Scripted
from tests.support.browser import browsing


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


def helper() -> LlmAgent:
    script = (["I will ", "add. ", Call("add", {"a": 1, "b": 2})], ["It is ", "three."])
    return LlmAgent(name="helper", model=Scripted(*script), tools=[add])


async def test_the_page_is_served_where_it_is_wanted(client_of: Callable[..., Any]):
    client = await client_of(Runner(helper()), adk_web=True)
    assert (await client.get("/dev-ui")).headers["location"] == "/dev-ui/"
    assert "<app-root>" in (await client.get("/dev-ui/")).text
    config = (await client.get("/dev-ui/assets/config/runtime-config.json")).json()
    assert config == {"backendUrl": "", "telemetry": False}
    assert (await client.get("/config/telemetry")).json() == {"telemetry": False}
    without = await client_of(Runner(helper()))
    assert (await without.get("/dev-ui/")).status_code == 404


def test_without_adk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"gapless\[adk\]"):
        create_app(Runner(lambda message: message), adk_web=True)


def test_the_page_chats():
    shows = "(text) => document.body.innerText.includes(text)"
    with serving(create_app(Runner(helper()), adk_web=True)) as url, browsing() as browser:
        browser.do("goto", url=f"{url}/dev-ui/?app=helper")
        browser.until("() => document.querySelector('textarea')")
        browser.do("fill", selector="textarea", value="add, please")
        browser.do("press", selector="textarea", key="Enter")
        browser.until(shows, "It is three.")
        text = browser.evaluate("() => document.body.innerText")
        assert text.count("It is three.") == 1
        assert text.count("I will add.") == 1
        session = browser.evaluate("() => new URLSearchParams(location.search).get('session')")
        assert session
        browser.do("reload")  # it shows the session again
        browser.until(shows, "It is three.")
        assert "Help Improve ADK" not in browser.evaluate("() => document.body.innerText")
