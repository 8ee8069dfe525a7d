"""ADK's own web page, on our routes."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from google.adk.agents import LlmAgent
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.utils.base_agent_loader import BaseAgentLoader
from google.genai import types

from gapless import Runner, create_app
from gapless.errors import ExtraMissing
from gapless.testing import serving
from tests.protocols.adk.test_beside_adk import AGENTS
from tests.support.adk import Call, Scripted
from tests.support.browser import Browser, browsing


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


OFFLINE = "fonts.gstatic.com"
"""What the page asks for elsewhere."""


def errors_of(browser: Browser) -> list[str]:
    """What the page wrote as errors, and what it did not catch."""
    logged: list[str] = browser.do("logged")
    errors: list[str] = browser.do("errors")
    return [told for told in logged if OFFLINE not in told] + errors


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
        assert errors_of(browser) == []


def test_the_page_draws_the_agent():
    labels = "() => [...document.querySelectorAll('svg g.node text')].map((text) => text.textContent.trim()).join(' ')"
    with serving(create_app(Runner(helper()), adk_web=True)) as url, browsing() as browser:
        browser.do("goto", url=f"{url}/dev-ui/?app=helper")
        browser.until("() => document.querySelector('textarea')")
        browser.do("fill", selector="textarea", value="add, please")
        browser.do("press", selector="textarea", key="Enter")
        browser.until("(labels) => eval(labels)().includes('helper') && eval(labels)().includes('add')", labels)
        assert errors_of(browser) == []


def test_what_would_stay_empty_is_hidden():
    shown = "(selector) => [...document.querySelectorAll(selector)].filter((one) => one.offsetParent)"
    tabs = f"() => ({shown})('[role=tab]').map((tab) => tab.innerText).join() === 'Info,State,Artifacts'"
    light = "() => [...document.querySelectorAll('mat-icon')].find((one) => one.innerText === 'light_mode')?.click()"
    with serving(create_app(Runner(helper()), adk_web=True)) as url, browsing() as browser:
        browser.do("goto", url=f"{url}/dev-ui/?app=helper")
        browser.until("() => document.querySelector('textarea')")
        browser.do("fill", selector="textarea", value="add, please")
        browser.do("press", selector="textarea", key="Enter")
        for theme in ("dark", "light"):
            browser.until("() => document.querySelector('mat-button-toggle[value=traces]')")
            browser.until(tabs)
            for selector in ("mat-button-toggle", "[aria-label='Deploy this agent']", "[aria-label='User menu']"):
                count = browser.evaluate(f"(selector) => ({shown})(selector).length", selector)
                assert count == ("User" in selector), (theme, selector)
            browser.evaluate(light)
            browser.until("() => document.querySelector('#prism-theme-style').href.includes('light')")
        assert errors_of(browser) == []


class Loader(BaseAgentLoader):
    def load_agent(self, agent_name: str) -> Any:
        return AGENTS[agent_name]()

    def list_agents(self) -> list[str]:
        return list(AGENTS)


@pytest.fixture(scope="module")
def adks_own() -> Any:
    """ADK's own server, with its page."""
    memory = dict.fromkeys(("session_service_uri", "artifact_service_uri", "memory_service_uri"), "memory://")
    return get_fast_api_app(
        agents_dir=tempfile.mkdtemp(), agent_loader=Loader(), use_local_storage=False, web=True, **memory
    )


def told_too(ours: Any, theirs: Any) -> bool:
    """Whether all that is told here is told by ADK's server."""
    if isinstance(ours, dict):
        return all(key in theirs and told_too(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(told_too, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize("app", list(AGENTS))
async def test_an_agent_is_shown_as_by_adks_own_server(app: str, adks_own: Any, client_of: Callable[..., Any]):
    ours: httpx2.AsyncClient = await client_of(Runner(agents={app: AGENTS[app]()}), adk_web=True)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(adks_own), base_url="http://localhost") as theirs:
        for dark in ("false", "true"):
            path = f"/dev/apps/{app}/build_graph_image?dark_mode={dark}"
            assert (await ours.get(path)).json() == (await theirs.get(path)).json()
        path = f"/dev/apps/{app}/build_graph"
        told = (await ours.get(path)).json()["root_agent"]
        assert told_too(told, (await theirs.get(path)).json()["root_agent"])
        assert told["name"]
        path = f"/apps/{app}/app-info"
        own, info = await theirs.get(path), (await ours.get(path)).json()
        if own.status_code == 200:
            assert info == own.json()
        else:  # it shows none whose root is no LlmAgent
            assert (info["name"], info["rootAgentName"], "agents" in info) == (app, told["name"], False)


async def test_keys_that_an_agent_is_configured_with_are_not_shown(client_of: Callable[..., Any]):
    options = types.HttpOptions(headers={"Authorization": "Bearer s3cret"})
    config = types.GenerateContentConfig(http_options=options)
    inner = LlmAgent(name="inner", model=Scripted(["Yes."]), generate_content_config=config)
    outer = LlmAgent(name="outer", model=Scripted(["Yes."]), generate_content_config=config, sub_agents=[inner])
    client: httpx2.AsyncClient = await client_of(Runner(outer), adk_web=True)
    for path in ("/apps/outer/app-info", "/dev/apps/outer/build_graph", "/dev/apps/outer/build_graph_image"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert "inner" in answer.text
        assert "s3cret" not in answer.text


async def test_an_agent_of_another_kind_has_its_name_and_no_drawing(client_of: Callable[..., Any]):
    client: httpx2.AsyncClient = await client_of(Runner(agents={"echo": lambda message: message}), adk_web=True)
    info = (await client.get("/apps/echo/app-info")).json()
    assert (info["name"], info["rootAgentName"]) == ("echo", "echo")
    assert (await client.get("/dev/apps/echo/build_graph")).json()["root_agent"]["name"] == "echo"
    assert (await client.get("/dev/apps/echo/build_graph_image")).json() == {}
    assert (await client.get("/dev/apps/none/build_graph")).status_code == 404


async def test_how_an_agent_is_made_is_told_to_who_may_come_in(client_of: Callable[..., Any]):
    def who(request: Any) -> str | None:
        user: str | None = request.headers.get("x-user")
        return user

    client: httpx2.AsyncClient = await client_of(Runner(helper()), adk_web=True, authenticate=who)
    for path in ("/apps/helper/app-info", "/dev/apps/helper/build_graph", "/dev/apps/helper/build_graph_image"):
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers={"X-User": "ada"})).status_code == 200
