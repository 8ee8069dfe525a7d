"""Every example runs, offline, as any kind of agent, and prints what it is there to show."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest

from gapless import NotifyConfig, Runner, Webhook, create_app
from gapless.testing import ScriptedAgent, ToolCall, pydantic_ai_model, serving, words
from tests.support import preloaded
from tests.support.browser import Browser, browsing
from tests.support.over_http import STREAM
from tests.support.receiver import SECRET
from tests.support.waiting import HANG_S, WAIT_S, until

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RUN_S_MAX = HANG_S


def python(*arguments: object, input: str = "") -> str:
    command = [sys.executable, *map(str, arguments)]
    done = preloaded.run(command, input=input, capture_output=True, text=True, timeout=RUN_S_MAX, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def basic(out: str) -> None:
    assert out == "You said: Hello \nfinished\n"


def events(out: str) -> None:
    kinds = [line.split()[0].removesuffix("Event") for line in out.splitlines()]
    assert (kinds[0], kinds[-1]) == ("RunStarted", "RunFinished")
    order = ("ReasoningMessageContent", "ToolCallStart", "ToolCallEnd", "ToolCallResult", "TextMessageContent")
    assert [kind for kind in dict.fromkeys(kinds) if kind in order] == list(order)
    assert "'sunny.'" in out


def modes(out: str) -> None:
    text = "Streaming shows an answer while it is being written."
    assert out == f"SSE: 9 chunks: {text}\nNONE: 1 chunks: {text}\n"


def without_asyncio(out: str) -> None:
    assert out == "No event loop in sight.\n"


def collect(out: str) -> None:
    assert out == "Machine learning finds the rule in the examples.\n8 chunks, 48 characters\n"


def live(out: str) -> None:
    asked, told, cut, rest, kept = (line.strip() for line in out.strip().splitlines())
    assert (asked, cut, kept) == ("user: The old town", "user: The harbour", "4 messages are kept")
    assert told.startswith("assistant: The old town, station 1. The old town, station 2. The old town, station 3.")
    assert rest.startswith("assistant: The harbour, station 1. ")
    assert rest.endswith("Goodbye.")


def progress(out: str) -> None:
    assert out.count("An essay on artificial intelligence.") == 10


def outputs(out: str) -> None:
    text = "AI safety means that it does what people mean."
    assert out == f"{text}\nfile: {text}\nsent: {text}\nfailed: disk full\n"


def timeout(out: str) -> None:
    said, error, kept = out.splitlines()
    assert said, "some of it"
    assert "The universe is ".startswith(said), "as much as there was time for"
    assert error == "[run_timeout: the run passed timeout=0.5 s]"
    assert kept.startswith(f"kept: {said!r}")
    assert "'interrupted': True" in kept


def aggregator(out: str) -> None:
    thought, text, call, result, more, sums = out.splitlines()
    assert "How many are there?" in thought
    assert "thought=True" in thought
    assert "text='Let me count. '" in text
    assert "name='blocks', args={}" in call
    assert "840000" in result
    assert "A blockchain is a list" in more
    assert sums == "59 characters of text, 19 of thought"


def sessions(out: str) -> None:
    assert out.startswith("My name is Ada. → Nice to meet you, Ada.\nWhat is my name? → Your name is Ada.\n['s1']\n")
    assert re.findall(r"(\w+)Message: ", out) == ["User", "Assistant", "User", "Assistant"]
    assert out.endswith("\n[]\n")


def tools(out: str) -> None:
    assert re.sub(r"\s", "", out) == (
        'Letmelook.[toolfetch_sales]{"year":2024}[result]{"year":2024,"total":15750000}In2024wesoldfor$15.75million.'
    )


def typed_output(out: str) -> None:
    partial = re.findall(r"so far: .*, (\d) findings", out)
    assert partial[0] == "0"
    assert partial == sorted(partial)
    assert partial[-1] == "3"
    assert out.endswith("['Sales grew.', 'Customers stayed.', 'Costs fell.']\n")


def cancel(out: str) -> None:
    said, status, kept = out.splitlines()
    assert 60 < len(said) < 100
    assert status == "cancelled"
    assert said.strip() in kept
    assert "'code': 'run_cancelled'" in kept


def replays(out: str) -> None:
    searched, first, whole = out.splitlines()
    assert searched == "(searching a room)"  # once
    assert whole == f"{first}Now a room by the sea is booked."


def not_twice(out: str) -> None:
    paying, _, whole = out.partition("\n")
    assert paying.startswith("(paying 700 for r:")
    assert whole == "I pay. \n\nPlease look into your account.\n"


def sse_format(out: str) -> None:
    assert 'data: {"text":"REST "}\nid: r1:3\n\n' in out
    assert "data: [DONE]\n" in out
    tail = out.partition("as AG-UI events:")[2]
    assert next(int(id) for id in re.findall(r"^id: (\d+)$", tail, re.MULTILINE)) > 2
    assert "RUN_FINISHED" in tail
    assert "RUN_STARTED" not in tail


def errors(out: str) -> None:
    failed, said, status = out.splitlines()
    assert "check_stock raised ConnectionError" in failed
    assert said == "Said until then: Let me check the stock. "
    assert status == "failed"


def buffered(out: str) -> None:
    sizes = [int(size) for size in re.findall(r"^\[(\d+) characters\]", out, re.MULTILINE)]
    assert sum(sizes) == 3 * 78
    assert len(sizes) < 20, "of 51 words; a machine that is busy for half a second makes one more"
    assert max(sizes) >= 50


def functions(out: str) -> None:
    chunks, said = "['HELLO']\n['h', 'e', 'l', 'l', 'o']\n", out.splitlines()[2:]
    assert out.startswith(chunks)
    assert said[:2] == ["Ada, this is message 1: hello", "Ada, this is message 3: again"]
    assert said[2:] == ["You: hello", f"I: {said[0]}", "You: again", f"I: {said[1]}", "You: well?"]


def pydantic_ai_agent(out: str) -> None:
    assert out == "Paris: sunny\n"


def adk_agent(out: str) -> None:
    assert out == "It is sunny in Paris.\n"


def langgraph_agent(out: str) -> None:
    said, _, done = out.partition("[")
    assert said == "I book it. "
    assert "'arguments': {'room': '7'}" in done
    assert done.endswith("? yes] Done.\n")


def openai_agents_agent(out: str) -> None:
    assert out == "One moment. [billing] The money is on its way.\n"


def agui_object(out: str) -> None:
    assert out == "Hello, this is message 1.\n"


def producer(out: str) -> None:
    assert out == "(the first worker is gone)\nRead 3 files. Sorted 14 rows. The sum is 42.\n"


def approval(out: str) -> None:
    assert out == (
        "Approve the call of refund? {'order': 7}\nThe money is on its way.\nDelete my account: sure? \nIt is gone.\n"
    )


def local_model(out: str) -> None:
    assert len(out.split()) > 2, "the embedded model said something"


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        *(basic, events, modes, without_asyncio, collect, progress, outputs, timeout, aggregator, sessions, tools),
        *(typed_output, cancel, sse_format, errors, buffered),
        *(
            functions,
            pydantic_ai_agent,
            adk_agent,
            langgraph_agent,
            openai_agents_agent,
            agui_object,
            approval,
            producer,
            local_model,
            live,
            not_twice,
            replays,
        ),
    )
}
OF_ONE_KIND = {
    *("adk_agent", "approval", "basic", "functions", "langgraph_agent", "live", "local_model", "not_twice"),
    *("agui_object", "producer", "openai_agents_agent", "pydantic_ai_agent", "replays"),
}
"""They do not take `--framework`."""
BY_THE_CLOCK = {"timeout", "buffered"}
"""They show what comes of half a second, in which a machine may stand still."""
GOES_MAX = 5
OTHERWISE_TESTED = {
    "webhook_receiver",
    *(
        "agno_agent",
        "browser",
        "chat",
        "claude_agent",
        "dbos_workflow",
        "strands_agent",
        "demo_agent",
        "endpoint",
        "llamaindex_agent",
        "mount",
        "my_agent",
        "queue_worker",
        "server",
        "test_my_agent",
    ),
}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CHECKS) | OTHERWISE_TESTED


def check(name: str, printed: Callable[[], str]) -> None:
    """Check what the example has printed, or prints at one of several goes where that depends on the clock."""
    for left in reversed(range(GOES_MAX if name in BY_THE_CLOCK else 1)):
        try:
            CHECKS[name](printed())
        except AssertionError:
            if not left:
                raise
        else:
            break


@pytest.mark.parametrize("name", CHECKS)
def test_it_runs_as_it_stands(name: str):
    check(name, lambda: python(EXAMPLES / f"{name}.py"))


def run_with(framework: str, *names: str) -> dict[str, str]:
    command = [Path(__file__).with_name("run_all.py"), ",".join(names), "--framework", framework]
    printed: dict[str, str] = json.loads(python(*command))
    return printed


@functools.cache
def printed_with(framework: str) -> dict[str, str]:
    return run_with(framework, *(name for name in CHECKS if name not in OF_ONE_KIND))


@pytest.mark.parametrize("framework", ["pydantic-ai", "adk"])
@pytest.mark.parametrize("name", [name for name in CHECKS if name not in OF_ONE_KIND])
def test_it_runs_as_a_real_agent_of_the_framework(name: str, framework: str):
    first = [printed_with(framework)[name]]
    check(name, lambda: first.pop() if first else run_with(framework, name)[name])


@pytest.mark.parametrize("framework", ["none", "pydantic-ai"])
def test_the_chat_answers_until_quit(framework: str):
    out = python(EXAMPLES / "chat.py", "--framework", framework, input="Hello\n\nWhat is a qubit?\nQuit\nnever\n")
    answers = re.findall(r"\[\d\d:\d\d:\d\d\] Agent: (.*)", out)
    assert answers == [
        "Hello! I explain things. What would you like to know?",
        "A qubit can be 0 and 1 at the same time, until somebody looks.",
    ]
    assert out.endswith("Goodbye!\n")


def test_the_chat_survives_an_error():
    out = python(EXAMPLES / "chat.py", "--model", "http://127.0.0.1:9/v1", input="Hello\nexit\n")
    assert "[model_failed]" in out
    assert out.endswith("Goodbye!\n")


@pytest.mark.parametrize("given", [True, False])
def test_an_endpoint_gets_a_journal(given: bool):
    with serving(create_app(Runner(ScriptedAgent(*words("I am a service.")), app_name="service"))) as url:
        out = python(EXAMPLES / "endpoint.py", *([f"{url}/v1?model=service"] if given else []))
    said, journal = out.splitlines()
    assert said == ("I am a service." if given else "I am a service that keeps nothing.")
    assert int(journal.split()[0]) > 5


def test_the_unit_tests_of_an_agent_pass():
    out = python("-m", "pytest", "-p", "no:cacheprovider", "examples/test_my_agent.py")
    assert "2 passed" in out


# ------------------------------------------------------------------------------------------------------------ servers


def module(name: str) -> ModuleType:
    """The example as a module, as `uvicorn name:app` imports it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(autouse=True)
def as_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["example"])
    monkeypatch.chdir(tmp_path)  # server.py makes its database where it is started


def test_the_server_of_the_readme(tmp_path: Path):
    with serving(module("server").app) as url:
        said = httpx2.get(url + "/chat/stream", params={"query": "Hello"}, timeout=WAIT_S).text
        assert httpx2.get(url, timeout=WAIT_S).headers["content-type"].startswith("text/html")
    assert [json.loads(one)["text"] for one in re.findall(r"data: (\{.*)", said)] == ["", "You ", "said: ", "Hello "]
    assert (tmp_path / "gapless.db").exists()


@pytest.mark.parametrize(("user", "lamps"), [("north", "3"), ("nobody", "0")])
def test_dependencies_over_http_are_made_from_the_run(user: str, lamps: str):
    example = module("my_agent")
    example.shop_agent.model = pydantic_ai_model(ToolCall("in_stock", {"item": "lamp"}), "That many.")
    with serving(create_app(Runner(example.served), authenticate=lambda request: user)) as url:
        said = httpx2.post(url + "/runs", json={"message": "Lamps?"}, headers=STREAM, timeout=WAIT_S).text
    assert [json.loads(one)["content"] for one in re.findall(r"data: (.*TOOL_CALL_RESULT.*)", said)] == [lamps]


def test_gapless_inside_another_app():
    with serving(module("mount").main) as url:
        summary = httpx2.post(url + "/summary?query=Hi", timeout=WAIT_S).json()
        assert summary == {"text": "FastAPI serves it, Gapless streams it."}
        said = httpx2.get(url + "/agents/chat/stream?query=Hi", timeout=WAIT_S)
        assert "data: [DONE]" in said.text
        assert httpx2.get(url + "/agents/health", timeout=WAIT_S).json() == {"status": "ok"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.mark.parametrize("client", ["./eventsource.js", "./follow.js"])
def test_a_page_of_ones_own_in_a_real_browser(browser: Browser, client: str):
    app: Any = module("browser").app
    with serving(app) as url:
        browser.do("goto", url=url)
        browser.evaluate("(client) => { document.querySelector('select').value = client }", client)
        browser.do("click", selector="button")
        browser.until("() => document.querySelector('#status').textContent === 'done'")
        shown = browser.evaluate("() => document.querySelector('#answer').textContent")
    assert shown == "Server-Sent Events are lines of text over <b>one</b> HTTP answer."
    assert browser.do("errors") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("collect.py", "--model", "http://127.0.0.1:9/v1?model=x"),
            "ModelFailed: nothing answers at http://127.0.0.1:9",
        ),
        (("endpoint.py", "http://127.0.0.1:9/v1"), "model_failed: nothing answers at http://127.0.0.1:9"),
        (("clients/async_client.py", "http://127.0.0.1:9"), "connection_lost: http://127.0.0.1:9 does not answer"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(arguments: tuple[str, ...], said: str):
    command = [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:]]
    done = preloaded.run(command, capture_output=True, text=True, timeout=RUN_S_MAX, cwd=ROOT)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_receiver_of_webhooks_verifies_and_does_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    receiver: Any = module("webhook_receiver")
    with serving(receiver.app) as url:
        told = NotifyConfig(webhooks=(Webhook(url=f"{url}/", secret=SECRET),), http=True, private=True)

        async def agent(message: str) -> str:
            return message

        async with Runner(agent, notify=told) as runner:
            run = await runner.start("hello", run_id="r", user_id="alice")
            await run.wait()

            async def delivered() -> bool:
                return [notice.status for notice in await runner.notices("r")] == ["delivered"]

            await until(delivered, "it is told")
            (notice,) = await runner.notices("r")
            await runner.notify_again("r", notice.id)
            await until(delivered, "it is told again")
        assert list(receiver.seen) == [notice.id]
        headers = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
        assert httpx2.post(f"{url}/", content="{}", headers=headers, trust_env=False).status_code == 401
    assert capsys.readouterr().out == "run.finished: run r of alice\n"
