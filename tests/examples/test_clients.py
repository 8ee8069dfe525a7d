"""Every client of examples/clients gets the whole answer, once, from a real server through a network that cuts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx2
import openai
import pytest
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from gapless import Runner, create_app
from gapless.agents.base import AgentItem, RunContext
from gapless.events import (
    CustomEvent,
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.testing import CutKind, Cutter, Gate, ScriptedAgent, serving
from tests.support import node, preloaded
from tests.support.browser import Browser, browsing
from tests.support.network import Network
from tests.support.sse import frames
from tests.support.waiting import HANG_S, WAIT_S, until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENTS = ROOT / "examples" / "clients"
KINDS: tuple[CutKind, ...] = ("abrupt", "mid-frame", "clean")
"""For programs that resume by code of their own. What others resume with meets every kind in tests/js and
tests/test_client.py, and here the worst: the one that looks like the end."""
CUTS = 3
AFTER_BYTES = (1500, 2500)
"""In the middle of the text on most wires, with some 1,200 bytes before it; responses have 4,300."""
OPENAI_AFTER_BYTES = (5000, 6000)
RUN_S_MAX = HANG_S
KEY = "a-key-of-the-examples"

THOUGHTS = ["They ask ", "what SSE is."]
PIECES = [f"Server-Sent Events are lines — number {n} — of text. " for n in range(160)]
TEXT = "".join(PIECES)
BEAT = 2
"""After so many pieces comes another event: text that is caught up with has many frames all the same, to be cut."""
PAUSE_S = 0.001
going_on: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
"""By session: its runs that stay may go on."""


async def assistant(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    """Thinks, calls a tool, explains. `Refund …`: asks before. `Pay`: asks for the call. `Never stop`: does not.
    `Stay`: says half of it, and the rest when somebody says `Go on SESSION`."""
    if message.startswith("Go on "):
        going_on[message.removeprefix("Go on ")].set()
        return
    yield ReasoningMessageStartEvent(message_id=f"{ctx.run_id}-r")
    for thought in THOUGHTS:
        yield ReasoningMessageContentEvent(message_id=f"{ctx.run_id}-r", delta=thought)
    yield ReasoningMessageEndEvent(message_id=f"{ctx.run_id}-r")
    if message.startswith("Refund"):
        yield "May I? "
        (answer,) = await ctx.interrupt([Interrupt(id=f"{ctx.run_id}-ask", reason="confirm", message=message)])
        yield f"You said {json.dumps(answer.payload)}. "
    call = f"{ctx.run_id}-c"
    yield ToolCallStartEvent(tool_call_id=call, tool_call_name="look_up")
    yield ToolCallArgsEvent(tool_call_id=call, delta='{"what":"SSE"}')
    yield ToolCallEndEvent(tool_call_id=call)
    if message == "Pay":
        await ctx.interrupt([Interrupt(id=f"{call}-ask", reason="tool_approval", message="So?", tool_call_id=call)])
    yield ToolCallResultEvent(message_id=f"{call}-result", tool_call_id=call, content='"found"')
    while True:
        for n, piece in enumerate(PIECES):
            if message == "Stay" and n == len(PIECES) // 2:
                await going_on[ctx.session_id].wait()
            yield piece
            if n % BEAT == 0:
                yield CustomEvent(name="beat", value=n)
            await asyncio.sleep(PAUSE_S)
        if message != "Never stop":
            return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    node.install(ROOT / "tests" / "js")
    with serving(create_app(Runner(assistant))) as url:
        yield url


def command(script: Path, *arguments: str) -> list[str]:
    match script.suffix:
        case ".py":
            return [sys.executable, str(script), *arguments]
        case ".mjs":
            return [node.NODE, "--import", (HERE / "packages.mjs").as_uri(), str(script), *arguments]
        case _:
            return ["sh", str(script), *arguments]


def printed(*processes: subprocess.Popen[str]) -> list[str]:
    """What programs that run at once have printed when all of them have succeeded."""
    try:
        outs = [process.communicate(timeout=RUN_S_MAX) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, error) in zip(processes, outs, strict=True):
        assert process.returncode == 0, f"{process.args!r}\n{out[-1000:]}\n{error[-3000:]}"
    return [out for out, _ in outs]


def start(script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    popen = preloaded.Popen if script.suffix == ".py" else subprocess.Popen
    return popen(command(script, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def through_cuts(
    server: str,
    script: Path,
    *arguments: str,
    kinds: Sequence[CutKind] = ("clean",),
    after_bytes: tuple[int, int] = AFTER_BYTES,
    **environment: str,
) -> list[str]:
    """What a program printed behind each kind of cut; each of its runs was cut as often as it was to be."""
    with contextlib.ExitStack() as stack:
        cutters = [stack.enter_context(Cutter(server, kind, cuts=CUTS, after_bytes=after_bytes)) for kind in kinds]
        outs = printed(*(start(script, cutter.url, *arguments, **environment) for cutter in cutters))
        for cutter in cutters:
            assert cutter.cuts, "nothing was cut"
            assert set(cutter.cuts.values()) == {CUTS}
    return outs


WHOLE_ANSWERS = {
    "adk_client.py": 1,
    "ag_ui.mjs": 1,
    "ai_sdk.mjs": 1,
    "async_client.py": 1,
    "conversation.py": 1,
    "openai_chat.mjs": 1,
    "openai_python.py": 2,
    "openai_responses.mjs": 1,
    "stream.mjs": 1,
    "sync_client.py": 1,
    "tanstack.mjs": 1,
}
"""Programs that print the answer, with how often they do."""
OWN_LOOPS = {"adk_client.py", "openai_python.py", "openai_responses.mjs"}
OTHERWISE_TESTED = {
    "ag_ui_join.mjs",
    "approve.mjs",
    "cli.sh",
    "curl.sh",
    "keys.mjs",
    "live_client.py",
    "other_wire.py",
    "use_chat.mjs",
}


def test_every_client_is_tested() -> None:
    assert {path.name for path in CLIENTS.iterdir() if path.is_file()} == WHOLE_ANSWERS.keys() | OTHERWISE_TESTED


@pytest.mark.parametrize("name", WHOLE_ANSWERS)
def test_it_gets_the_whole_answer_once(server: str, name: str) -> None:
    kinds: Sequence[CutKind] = KINDS if name in OWN_LOOPS else ("clean",)
    after_bytes = OPENAI_AFTER_BYTES if name.startswith("openai") else AFTER_BYTES
    for out in through_cuts(server, CLIENTS / name, kinds=kinds, after_bytes=after_bytes):
        assert out == (TEXT + "\n") * WHOLE_ANSWERS[name]


class TooSlow(httpx2.BaseTransport):
    """A network on which the answer to a POST takes too long: no shorter than until so many `runs` have begun, or the
    server may have got nothing."""

    def __init__(self, url: str, runs: int) -> None:
        self._url, self._runs, self._asked = url, runs, 0
        self._http = httpx2.HTTPTransport(verify=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method != "POST":
            return self._http.handle_request(request)
        self._asked += 1
        threading.Thread(target=self._ask, args=[request]).start()
        wanted = min(self._asked, self._runs)
        asyncio.run(until(lambda: begun_at(self._url) >= wanted, "the server has got what was asked"))
        raise httpx2.ReadTimeout("it takes too long", request=request)

    def _ask(self, request: httpx2.Request) -> None:
        with contextlib.suppress(httpx2.TransportError):  # the server ends at last
            self._http.handle_request(request).close()


def begun_at(url: str) -> int:
    return len(httpx2.get(f"{url}/runs", timeout=WAIT_S).json()["runs"])


@pytest.mark.parametrize(
    ("options", "headers", "runs"),
    [
        ({"max_retries": 1}, {}, 2),
        ({"max_retries": 1}, {"X-Run-Id": "chosen"}, 1),
        ({"max_retries": 0}, {}, 1),
    ],
)
def test_what_openais_client_repeats_is_one_run_with_an_id(
    options: dict[str, int], headers: dict[str, str], runs: int
) -> None:
    """As the documents warn: it repeats a request that timed out."""
    with serving(create_app(Runner(ScriptedAgent(Gate())), drain_s=0)) as url:
        http = httpx2.Client(transport=TooSlow(url, runs))
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, **options) as client:
            model, asked = client.models.list().data[0].id, [{"role": "user", "content": "Slow?"}]
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(model=model, messages=asked, extra_headers=headers)
        assert begun_at(url) == runs


def test_the_older_ai_sdk_takes_the_same_code(server: str) -> None:
    for out in through_cuts(server, CLIENTS / "ai_sdk.mjs", AI="ai6"):
        assert out == TEXT + "\n"


def test_use_chat_goes_on_on_a_new_page(server: str) -> None:
    for out in through_cuts(server, HERE / "pages.mjs", "resume"):
        assert out == TEXT + "\n"


def test_use_chat_stops_and_sends_what_is_approved(server: str) -> None:
    (out,) = printed(start(HERE / "pages.mjs", server, "stop"))
    assert (TEXT * 100).startswith(out.removesuffix("\n"))


def test_http_agent_joins_in_the_middle_of_an_answer(server: str) -> None:
    asked = {"message": "Stay", "session_id": "joined-late"}
    run = httpx2.post(f"{server}/runs", json=asked, timeout=WAIT_S).json()["id"]
    with httpx2.stream("GET", f"{server}/runs/{run}/events?wire=text", timeout=WAIT_S) as answer:
        said = 0
        for line in answer.iter_lines():
            said += len(line)
            if said > len(TEXT) / 4:
                break
    with Cutter(server, "clean", cuts=CUTS, after_bytes=AFTER_BYTES) as cutter:
        process = start(CLIENTS / "ag_ui_join.mjs", cutter.url, "joined-late")
        assert process.stdout is not None
        shown = process.stdout.read(len(TEXT) // 8)
        httpx2.post(f"{server}/runs", json={"message": "Go on joined-late"}, timeout=WAIT_S)
        shown += process.stdout.read()
        printed(process)
        assert shown == f"{TEXT}\n{TEXT}\n"
        assert list(cutter.cuts.values()) == [CUTS, CUTS]


def test_a_person_is_asked(server: str) -> None:
    for out in through_cuts(server, CLIENTS / "approve.mjs", kinds=KINDS):
        assert out == 'May I? You said {"approved": true}. ' + TEXT + "\n"


def test_another_wire_goes_on_with_the_run(server: str) -> None:
    for out in through_cuts(server, CLIENTS / "other_wire.py"):
        assert out == f"{TEXT}\nfinished\ncompleted\n"


def test_curl_goes_on_where_it_hung_up(server: str) -> None:
    (out,) = printed(start(CLIENTS / "curl.sh", server))
    record, _, streamed = out.partition("\n")
    assert json.loads(record)["status"] in {"queued", "running"}
    seen = [frame for frame in frames(streamed.encode()) if frame.data]
    assert "".join(json.loads(frame.data)["text"] for frame in seen if frame.data != "[DONE]") == TEXT
    assert len({frame.id for frame in seen}) == len(seen)


def test_the_command_line_follows(server: str, tmp_path: Path) -> None:
    gapless = tmp_path / "gapless"  # as the installed command, wherever the tests' Python has its scripts
    gapless.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gapless "$@"\n')
    gapless.chmod(0o755)
    for out in through_cuts(server, CLIENTS / "cli.sh", PATH=f"{tmp_path}:{os.environ['PATH']}"):
        _, _, rest = out.partition("\n")
        assert re.sub(r"\s+", " ", TEXT.strip()) in re.sub(r"\s+", " ", rest)
        last = next(json.loads(line) for line in rest.splitlines() if line.startswith('{"id":'))
        assert last["event"]["type"] == "RUN_FINISHED"


class Cutting:
    """A live agent whose network breaks in the middle of each answer."""

    def __init__(self) -> None:
        self.network: Network | None = None

    async def __call__(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        async for request in ctx.live:
            yield f"You said {request.content}, "
            assert self.network is not None
            self.network.cut()
            yield "I say yes. "
        yield "Bye."


SAID = "".join(f"You said {text}, I say yes. " for text in ("Hello", "and good-bye")) + "Bye."


@pytest.fixture
def breaking() -> Iterator[str]:
    """A server of a live agent, behind a network that breaks."""
    agent = Cutting()
    app = FastAPI()
    app.mount("/agents", create_app(Runner(agent)))
    app.mount("/", StaticFiles(directory=ROOT / "examples" / "browser", html=True))
    with serving(app) as url, Network(int(url.rpartition(":")[2])) as agent.network:
        yield f"127.0.0.1:{agent.network.port}"


def test_a_live_run_goes_on_where_it_was(breaking: str) -> None:
    (out,) = printed(start(CLIENTS / "live_client.py", f"ws://{breaking}/agents"))
    assert out == "HelloYou said Hello, I say yes. and good-byeYou said and good-bye, I say yes. Bye.\n"


TALK = """async () => {
    const { talk } = await import("./live.js");
    let own, text = "";
    return await new Promise((resolve) => {
        const live = talk((event) => {
            if (event.type === "TEXT_MESSAGE_START") own = event.role === "assistant";
            if (event.type === "TEXT_MESSAGE_CONTENT" && own) text += event.delta;
            if (event.type === "TEXT_MESSAGE_CONTENT" && event.delta === "and good-bye") live.close();
            if (event.type === "end") resolve(text);
        });
        live.say("Hello");
        live.say("and good-bye");
    });
}"""


def test_a_live_run_in_a_browser(browser: Browser, breaking: str) -> None:
    browser.do("goto", url=f"http://{breaking}")
    assert browser.evaluate(TALK) == SAID


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAPLESS_API_KEYS", f"ada={KEY}")
    with serving(create_app(Runner(assistant))) as url:
        for out in through_cuts(url, HERE / "keys.mjs", KEY):
            assert set(json.loads(out).values()) == {TEXT}
        (told,) = printed(start(CLIENTS / "async_client.py", url, GAPLESS_API_KEY=KEY))
        assert told == TEXT + "\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The page of examples/browser, as examples/browser.py serves it."""
    runner = Runner(assistant)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runner:
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/agents", create_app(runner))
    app.mount("/", StaticFiles(directory=ROOT / "examples" / "browser", html=True))
    with serving(app) as url:
        yield url


@pytest.mark.parametrize("client", ["eventsource.js", "follow.js"])
def test_a_browser_goes_on_by_itself(browser: Browser, site: str, client: str) -> None:
    """The clients of examples/browser, in Chromium."""
    for kind in KINDS:
        with Cutter(site, kind, cuts=CUTS, after_bytes=AFTER_BYTES) as cutter:
            browser.do("goto", url=cutter.url)
            assert browser.evaluate(ASK, f"./{client}") == TEXT
            assert list(cutter.cuts.values()) == [CUTS]


def test_a_page_that_is_loaded_anew_goes_on_with_its_answer(browser: Browser, site: str) -> None:
    shown = "() => document.querySelector('#answer').textContent"
    browser.do("goto", url=site)
    browser.do("fill", selector="input", value="Stay")
    browser.do("click", selector="button")
    browser.until(f"() => ({shown})().length > 100")
    browser.do("reload")
    browser.until(f"() => ({shown})().length > 100")
    runs = httpx2.get(f"{site}/agents/runs", timeout=WAIT_S).json()["runs"]
    (run,) = [run for run in runs if run["message"] == "Stay"]
    assert run["status"] == "running"
    httpx2.post(f"{site}/agents/runs", json={"message": f"Go on {run['session_id']}"}, timeout=WAIT_S)
    browser.until("() => document.querySelector('#status').textContent === 'done'")
    assert browser.evaluate(shown) == TEXT
    browser.do("reload")
    assert not browser.evaluate("() => sessionStorage.length"), "what was shown whole is not asked for again"


ASK = """async (module) => {
    const { ask } = await import(module);
    let text = "";
    await ask("Explain SSE", (piece) => (text += piece));
    return text;
}"""


ASK_ELSEWHERE = """async (server) => {
    const { createDurableFetch } = await import("/static/client.js");
    const body = JSON.stringify({ query: "Explain SSE" });
    const headers = { "content-type": "application/json" };
    try {
        return await (await createDurableFetch()(`${server}/chat/stream`, { method: "POST", headers, body })).text();
    } catch (error) {
        return error.name;
    }
}"""


def test_a_page_of_another_origin(browser: Browser) -> None:
    with serving(create_app(Runner(assistant))) as page:
        browser.do("goto", url=f"{page}/health")
        for origins in ([page], []):
            with serving(create_app(Runner(assistant), cors_origins=origins)) as url:
                with Cutter(url, "clean", cuts=CUTS, after_bytes=AFTER_BYTES) as cutter:
                    got = browser.evaluate(ASK_ELSEWHERE, cutter.url)
                    if not origins:
                        assert got == "TypeError"
                        continue
                    assert list(cutter.cuts.values()) == [CUTS]
                seen = [json.loads(frame.data) for frame in frames(got.encode()) if frame.data.startswith("{")]
                assert "".join(one["text"] for one in seen) == TEXT
