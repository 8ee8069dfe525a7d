"""People are asked, and answer a week later: ten restarts on, some of the code changed, to another process. Each family
of clients asks with its own client, and answers as a page that is opened on that day."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gapless.client import GaplessClient
from gapless.records import RunStatus
from tests.goes_on import approving
from tests.support import node, preloaded
from tests.support.browser import Browser, browsing
from tests.support.processes import Server, client_of
from tests.support.waiting import WAIT_S, until

AGENTS = ("pydantic", "adk", "function")
JS = Path(__file__).parent.parent / "js"
SCRIPT_S_MAX = 300
RESTARTS = 10
CHANGES_AT = 5
DAYS = 7
CHANGES = {"Be brief.": "Be polite.", " is deleted": " is removed", "TOOLS = [look]": "TOOLS = [look, check]"}
NEW_TOOL = '''
def check(path: str) -> str:
    """Check it."""
    return path


TOOLS = '''
LOOKED, AGREED = "Let me see. ", "So: {} is removed"
ONCE = {
    "pydantic": ["delete", "look", "model-0", "model-1"],
    "adk": ["delete", "look", "model-asker-0", "model-asker-2", "model-last-0"],
    "function": ["delete", "look"],
}
"""What each run costs, whatever happens to its servers."""
ANSWER = "() => document.querySelector('[data-testid=answer]')?.textContent ?? ''"
ASKS = "() => document.querySelector('[data-testid=approve]:not([disabled])') !== null"


class Place:
    """One store, and the server of the day on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.module = folder / "approving.py"
        self.module.write_text(Path(approving.__file__).read_text())
        self.port = 0
        self.server: Server | None = None

    def serve(self, day: float) -> Server:
        """Start a server on the day; it is another process each time."""
        self.server = Server(
            self.folder,
            self.port,
            agent=f"pydantic={self.module}:pydantic",
            arguments=(
                *(f"{name}={self.module}:{name}" for name in AGENTS[1:]),
                *("--config", f"answer_timeout={2 * DAYS * 86_400}", "--log-level", "warning"),
            ),
            environment={
                "GAPLESS_TEST_LEDGER": str(self.ledger),
                "GAPLESS_TEST_LEASE_S": "60",
                "GAPLESS_TEST_DAYS": str(day),
            },
            popen=preloaded.PopenWithFrameworks,
        )
        self.server.start()
        self.port = self.server.port
        return self.server

    def change_the_code(self) -> None:
        source = self.module.read_text()
        for old, new in CHANGES.items():
            assert old in source
            source = source.replace(old, new)
        self.module.write_text(source.replace("\nTOOLS = ", NEW_TOOL, 1))

    def done(self) -> dict[str, list[str]]:
        """What the ledger says was done, by message."""
        found = collections.defaultdict(list)
        for line in self.ledger.read_text().splitlines():
            message, what = line.split()
            found[message].append(what)
        return {message: sorted(what) for message, what in found.items()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    if place.server is not None:
        place.server.close()


async def script(phase: str, url: str, folder: Path, asked: Any = None) -> dict[str, Any]:
    """Run the JavaScript clients; what each reports."""
    report = folder / f"{phase}.json"
    given = {"urls": {"none": url}, "report": str(report), "phase": phase, "agents": AGENTS, "asked": asked}
    command = [node.NODE, str(JS / "approval.mjs")]
    options: dict[str, Any] = {"env": {**os.environ, "GAPLESS_TEST": json.dumps(given)}, "timeout": SCRIPT_S_MAX}
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads(report.read_text())["results"]
    assert {name: told["failed"] for name, told in results.items() if "failed" in told} == {}
    return results


async def is_waiting(client: GaplessClient, run_id: str) -> bool:
    return (await client.record(run_id)).status is RunStatus.WAITING


class Responses:
    """The `openai` client on `/v1/responses`."""

    async def ask(self, url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            self.ids = dict(zip(AGENTS, await asyncio.gather(*(self._ask(client, a) for a in AGENTS)), strict=True))

    async def _ask(self, client: openai.AsyncOpenAI, agent: str) -> str:
        stream = await client.responses.create(model=agent, input=f"responses-{agent}", stream=True)
        async for event in stream:
            if event.type == "response.created":
                id = event.response.id
            if event.type == "response.output_item.added" and getattr(event.item, "name", "") == "delete":
                break  # the stream stays open
        await stream.close()
        async with client_of(str(client.base_url).removesuffix("/v1/")) as own:
            await until(lambda: is_waiting(own, id.removeprefix("resp_")), "it waits for an answer")
        return id

    async def answer(self, url: str) -> dict[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return {a: await self._answer(client, url, id) for a, id in self.ids.items()}

    async def _answer(self, client: openai.AsyncOpenAI, url: str, id: str) -> str:
        asking = await client.responses.retrieve(id)
        assert (asking.status, asking.output_text) == ("in_progress", LOOKED)
        run_id = id.removeprefix("resp_")
        async with httpx2.AsyncClient(base_url=url, timeout=WAIT_S) as http:
            page = (await http.get(f"/runs/{run_id}/events", headers={"accept": "application/json"})).json()
            questions = page["events"][-1]["outcome"]["interrupts"]
            resume = [{"interruptId": q["id"], "status": "resolved", "payload": {"approved": True}} for q in questions]
            (await http.post(f"/runs/{run_id}/input", json={"resume": resume})).raise_for_status()
        *_, last = [event async for event in await client.responses.retrieve(id, stream=True)]
        assert last.type == "response.completed"
        return str(last.response.output_text)


class ADKClient:
    """What programs for ADK's own server send."""

    def body(self, *parts: Any) -> dict[str, Any]:
        message = {"role": "user", "parts": [*parts]}
        return {"appName": "adk", "userId": "u", "sessionId": "week", "newMessage": message, "streaming": True}

    async def ask(self, url: str) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=WAIT_S) as http:
            (await http.post("/apps/adk/users/u/sessions/week", json={})).raise_for_status()
            events = await self._run(http, {"text": "adkclient-adk"})
        parts = [part for event in events for part in (event.get("content") or {}).get("parts", [])]
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        (self.call,) = [call for call in calls if call["name"] == "adk_request_confirmation"]

    async def answer(self, url: str) -> str:
        response = {"id": self.call["id"], "name": self.call["name"], "response": {"confirmed": True}}
        async with httpx2.AsyncClient(base_url=url, timeout=WAIT_S) as http:
            events = await self._run(http, {"functionResponse": response})
        parts = [p for e in events if not e.get("partial") for p in (e.get("content") or {}).get("parts", [])]
        return "".join(part.get("text", "") for part in parts)

    async def _run(self, http: httpx2.AsyncClient, *parts: Any) -> list[Any]:
        answer = await http.post("/run_sse", json=self.body(*parts))
        assert answer.status_code == 200, answer.text
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines]


class Page:
    """The chat page: a tab is left open on one run for all of the week, another is opened then."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._address = ""

    def ask(self, url: str) -> None:
        for tab, agent in (("open", "pydantic"), ("new", "adk")):
            self._browser.do("goto", tab, url=url)
            self._browser.until("() => document.querySelectorAll('#agent option').length > 1", tab=tab)
            self._browser.do("click", tab, selector="[data-testid=new-session]")  # it shows the last conversation
            self._browser.until(f"() => !({ASKS})()", tab=tab)
            choose = """(name) => { const it = document.querySelector("#agent"); it.value = name;
                it.dispatchEvent(new Event("change")); }"""
            self._browser.evaluate(choose, agent, tab=tab)
            self._browser.do("fill", tab, selector="[data-testid=message]", value=f"page-{agent}")
            self._browser.do("press", tab, selector="[data-testid=message]", key="Enter")
            self._browser.until(ASKS, tab=tab)
        self._address = self._browser.evaluate("() => location.href", tab="new")
        self._browser.do("goto", "new", url="about:blank")

    def answer(self) -> dict[str, str]:
        self._browser.do("goto", "new", url=self._address)
        found = {}
        for tab, agent in (("open", "pydantic"), ("new", "adk")):
            self._browser.until(ASKS, tab=tab)
            self._browser.do("click", tab, selector="[data-testid=approve]")
            self._browser.until("() => document.documentElement.dataset.busy === 'false'", tab=tab)
            self._browser.until(f"(text) => ({ANSWER})().includes(text)", "So: ", tab=tab)
            found[agent] = self._browser.evaluate(ANSWER, tab=tab)
        return found


@pytest.fixture
def page() -> Iterator[Page]:
    node.install(JS)
    with browsing() as browser:
        yield Page(browser)


@pytest.mark.timeout(600)
async def test_a_question_is_answered_a_week_later(place: Place, page: Page):
    responses, adk_client = Responses(), ADKClient()
    url = place.serve(0).url
    async with client_of(url) as client:
        late = await client.start("late-function", agent="function", config={"answer_timeout": 3600})
        asked, *_ = await asyncio.gather(
            script("ask", url, place.folder), responses.ask(url), adk_client.ask(url), asyncio.to_thread(page.ask, url)
        )
        await until(lambda: is_waiting(client, late.id), "it waits for an answer")
    before = place.done()
    asked_by = [f"{family}-{agent}" for family in ("usechat", "agui", "responses") for agent in AGENTS]
    assert before.keys() == {*asked_by, "adkclient-adk", "page-pydantic", "page-adk", "late-function"}

    for restart in range(1, RESTARTS + 1):
        assert place.server is not None
        assert await asyncio.to_thread(place.server.terminate) == 0
        if restart == CHANGES_AT:
            place.change_the_code()
        await asyncio.to_thread(place.serve, DAYS * restart / RESTARTS)
    assert place.done() == before, "nothing happens while everybody waits"

    async with client_of(url) as client:
        record = await client.record(late.id)
        assert (record.status, (record.error or {}).get("code")) == (RunStatus.FAILED, "answer_timeout")
        told, by_responses, by_adk, by_page = await asyncio.gather(
            script("answer", url, place.folder, asked),
            responses.answer(url),
            adk_client.answer(url),
            asyncio.to_thread(page.answer),
        )
        runs = [await client.record(run.id) for run in await client.runs(limit=100)]
    assert {run.status for run in runs if run.id != late.id} == {RunStatus.FINISHED}
    for agent in AGENTS:
        after = "After." * (agent == "adk")
        for name in (f"usechat-{agent}", f"agui-{agent}"):
            assert told[name]["text"] == LOOKED + AGREED.format(name) + after
        assert by_responses[agent].replace("\n\n", "") == LOOKED + AGREED.format(f"responses-{agent}") + after
    assert by_adk == AGREED.format("adkclient-adk") + "After."
    for agent, text in by_page.items():
        assert AGREED.format(f"page-{agent}") in text
    done = place.done()
    assert done.pop("late-function") == ["look"]
    assert done == {message: ONCE[message.partition("-")[2]] for message in done}
