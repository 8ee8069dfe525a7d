"""The vendors' own JavaScript clients against a real server, through a network that cuts every answer.

The scripts beside this file run the clients and report what each made of the stream; here stands what it must be.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gapless.records import RunRecord
from gapless.runs.runner import Runner
from gapless.server import create_app
from gapless.testing import Cutter, serving
from gapless.wire import wire
from tests.support import node
from tests.support.rich import (
    ANSWER,
    ARGUMENTS,
    BEAT,
    CLOSING,
    FILE_URL,
    ITEMS,
    LONG_ARGUMENTS,
    REASONING,
    RESPONSE,
    RESULT,
    TEXT,
    rich,
)
from tests.support.waiting import WAIT_S

HERE = Path(__file__).parent
CUTS = ("abrupt", "mid-frame", "clean")
ALL = ("none", *CUTS)
CUTS_PER_ANSWER = 10
SCRIPT_S_MAX = 500
"""How long a script that hangs is waited for; its cases have a bound of their own (CASE_MS_MAX in cases.mjs)."""
IDLE_S_MAX = 600
"""A client whose connection was idle, and is closed as it uses it again, fails, and repeats no POST: that is right, and
not what is tested. On a busy machine clients are idle for longer than the five seconds that are the default."""
TEST_S_MAX = 900
"""The first test of a script waits for it, and the very first for npm."""

pytestmark = pytest.mark.timeout(TEST_S_MAX)
ENDLESS = "".join(f"{n} " for n in range(100_000))
APPROVED = "May I? " + "".join(CLOSING)


class Report(dict[str, Any]):
    """What the cases of a script came to, by their names. One that has failed fails the tests that ask for it."""

    def __getitem__(self, name: str) -> Any:
        told = super().__getitem__(name)
        if "failed" in told:
            pytest.fail(f"{name}: {told['failed']}", pytrace=False)
        return told


PLACE = b"PLACE"
"""Stands in a reconnect frame for the id of the last frame before it; `leaving` in cases.mjs puts that in."""


class Network:
    """A server and, before it, one proxy for each kind of cut."""

    def __init__(self, url: str, proxies: Mapping[str, Any]) -> None:
        self.url = url
        self.proxies = proxies

    def run(self, script: str, report: Path) -> Report:
        """Run a script's cases."""
        urls = {"none": self.url} | {kind: proxy.url for kind, proxy in self.proxies.items()}
        record = RunRecord(id="r", session_id="s", user_id="u", agent="a", message="", created_at=0)
        reconnect = {name: wire(name)(record).reconnect(PLACE).decode() for name in ("ag-ui", "vercel")}
        given = {"urls": urls, "report": str(report), "reconnect": reconnect, "cuts": CUTS_PER_ANSWER}
        env = {**os.environ, "GAPLESS_TEST": json.dumps(given)}
        command = [node.NODE, str(HERE / f"{script}.mjs")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SCRIPT_S_MAX, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return Report(json.loads(report.read_text())["results"])

    def cuts(self, kind: str, session: str) -> list[int]:
        """How often each run of a session was cut."""
        runs = httpx2.get(f"{self.url}/runs", params={"session_id": session}, timeout=WAIT_S).json()["runs"]
        return [self.proxies[kind].cuts[run["id"]] for run in runs]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    node.install(HERE)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(create_app(Runner(rich)), timeout_keep_alive=IDLE_S_MAX))
        kinds: dict[str, Any] = {}
        for kind in CUTS:
            kinds[kind] = stack.enter_context(Cutter(url, kind, cuts=CUTS_PER_ANSWER))
        yield Network(url, kinds)


def _reports(script: str) -> Any:
    """A fixture: the script's report, made once."""

    @pytest.fixture(scope="module", name=script)
    def report(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Report:
        return network.run(script, tmp_path_factory.mktemp(script) / "report.json")

    return report


SCRIPTS = ("aisdk", "agui", "tanstack", "openai", "eventsource", "react", "durable")
aisdk, agui, tanstack, openai, eventsource, react, durable = map(_reports, SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_case_of_a_script_has_failed(script: str, request: pytest.FixtureRequest) -> None:
    """Those too that no test asks for by name."""
    results: Report = request.getfixturevalue(script)
    assert {name: told["failed"] for name, told in results.items() if "failed" in told} == {}


# -- the AI SDK -------------------------------------------------------------------------------------------------------

VERSIONS = ("ai6", "ai7")


def is_whole_ui_message(told: dict[str, Any]) -> None:
    assert told["text"] == ITEMS
    assert told["reasoning"] == "".join(REASONING)
    (call,) = told["tools"]
    assert call["type"] == "tool-weather"
    assert call["state"] == "output-available"
    assert call["input"] == json.loads("".join(ARGUMENTS))
    assert call["output"] == json.loads(RESULT)
    assert [part["data"] for part in told["others"] if part["type"] == "data-beat"] == list(range(0, len(TEXT), BEAT))
    rest = [part for part in told["others"] if part["type"] != "data-beat"]
    others = {part["type"]: part for part in rest}
    assert others["data-state"]["data"] == {"stage": "tell", "notes": []}
    assert others["data-step"]["data"] == {"name": "plan", "status": "finished"}
    assert others["data-progress"]["data"] == {"percent": 50}
    assert others["source-url"]["url"] == "https://example.org/"
    assert others["file"] == {"type": "file", "mediaType": "text/plain", "url": FILE_URL}
    assert len(others) == len(rest), "a part came twice"
    assert told["metadata"]["usage"] == {"inputTokens": 11, "outputTokens": 22, "totalTokens": 33}
    assert told["steps"] == 2
    assert told["open"] == 0
    assert told["valid"]
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"]
    assert told["finishReason"] == "stop"
    assert told["status"] == "ready"


@pytest.mark.parametrize("cut", ALL)
@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_over_the_durable_fetch(network: Network, aisdk: Report, version: str, cut: str) -> None:
    name = f"{version}.durable.{cut}"
    is_whole_ui_message(aisdk[f"{name}.rich"])
    told = aisdk[f"{name}.error"]
    assert told["text"] == "".join(TEXT)
    assert (told["isError"], told["status"], told["open"], told["valid"]) == (True, "error", 0, True)
    assert told["metadata"]["error"]["code"] == "agent_failed"
    assert "secret" not in told["error"]
    told = aisdk[f"{name}.cancel"]
    assert len(told["text"]) > 3000
    assert ENDLESS.startswith(told["text"])
    assert (told["status"], told["open"], "finishReason" in told) == ("ready", 0, False)
    if cut != "none":
        assert network.cuts(cut, f"{name}.rich") == [CUTS_PER_ANSWER]


@pytest.mark.parametrize("cut", ALL)
@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_approvals(network: Network, aisdk: Report, version: str, cut: str) -> None:
    for approved, state in ((True, "output-available"), (False, "output-denied")):
        name = f"{version}.durable.{cut}.approve-{json.dumps(approved)}"
        told = aisdk[name]
        assert told["text"] == APPROVED
        (call,) = told["tools"]
        assert call["state"] == state
        assert call.get("output") == (json.loads(RESULT) if approved else None)
        assert (told["finishReason"], told["valid"], told["requests"]) == ("stop", True, 2)
        assert len(told["messages"]) == 2, "the run goes on in the same message"
        if cut != "none":
            assert min(network.cuts(cut, name)) >= 2


@pytest.mark.parametrize("cut", ALL)
@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_plain_sees_a_cut_for_what_it_is(aisdk: Report, version: str, cut: str) -> None:
    told = aisdk[f"{version}.plain.{cut}.rich"]
    if cut == "none":
        return is_whole_ui_message(told)
    assert ITEMS.startswith(told["text"])
    assert told["text"] != ITEMS
    assert "finishReason" not in told
    assert told["isError"] == (cut == "abrupt")
    return None


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_joins_an_answer_that_ended_as_it_was_cut(aisdk: Report, version: str) -> None:
    """The replay that was cut has emptied the message."""
    told = aisdk[f"{version}.load.late"]
    assert told["resumed"] == [200, 200]
    is_whole_ui_message(told)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_joins_again_by_itself(network: Network, aisdk: Report, version: str, cut: str) -> None:
    told = aisdk[f"{version}.resume.{cut}.rich"]
    is_whole_ui_message(told)
    assert told["joins"] == CUTS_PER_ANSWER
    assert network.cuts(cut, f"{version}.resume.{cut}.rich") == [CUTS_PER_ANSWER]


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_conversation(aisdk: Report, version: str) -> None:
    told = aisdk[f"{version}.durable.none.turns"]
    assert (told["first"], told["second"], told["third"]) == ("1:one", "3:two", "3:two")
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"] * 2
    told = aisdk[f"{version}.durable.none.hang-up"]
    assert ENDLESS.startswith(told["text"])
    assert len(told["messages"]) == told["kept"] == 2, "what is joined again replaces what was there"
    told = aisdk[f"{version}.durable.none.nothing-active"]
    assert (told["status"], told["messages"]) == ("ready", [])
    told = aisdk[f"{version}.durable.none.refused"]
    assert told["isError"]
    assert "session id" in told["error"]


def test_a_server_that_leaves_is_a_cut(aisdk: Report, agui: Report, tanstack: Report) -> None:
    for version in VERSIONS:
        told = aisdk[f"{version}.plain.none.server-leaves"]
        assert (told["isError"], "finishReason" in told) == (True, False)
        assert "resume it" in told["error"]
        is_whole_ui_message(aisdk[f"{version}.durable.none.server-leaves"])
    told = agui["agui.plain.none.server-leaves"]
    assert ("runError" in told, "outcome" in told) == (True, False)
    is_whole_thread(agui["agui.durable.none.server-leaves"])
    told = tanstack["tanstack.native.none.server-leaves"]
    assert (told["text"], told["status"]) == (ITEMS, "ready")


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_a_start_that_names_its_run_is_repeated(network: Network, aisdk: Report, version: str) -> None:
    name = f"{version}.durable.none.lost-start"
    assert aisdk[name]["lost"] == 2
    is_whole_ui_message(aisdk[name])
    runs = httpx2.get(f"{network.url}/runs", params={"session_id": name}, timeout=WAIT_S).json()["runs"]
    assert len(runs) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_tools_of_the_client(aisdk: Report, version: str) -> None:
    told = aisdk[f"{version}.durable.none.client-tool"]
    assert told["text"] == "Where are you? Zürich it is."
    (call,) = told["tools"]
    assert (call["input"], call["output"]) == ({"precise": True}, "Zürich")
    assert (told["requests"], len(told["messages"]), told["valid"]) == (2, 2, True)


def is_the_same(told: dict[str, Any]) -> list[dict[str, Any]]:
    """A page that opens on the chat is given what the one that streamed has; those messages."""
    assert told["loaded"] == {"messages": told["kept"], "activeRunId": None, "valid": True}
    kept: list[dict[str, Any]] = told["kept"]
    return kept


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return ["".join(part["text"] for part in message["parts"] if part["type"] == "text") for message in messages]


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_loads_what_the_page_had_that_streamed(aisdk: Report, version: str) -> None:
    _, rich_answer = is_the_same(aisdk[f"{version}.load.rich"])
    kinds = {part["type"] for part in rich_answer["parts"]}
    assert {"step-start", "reasoning", "text", "tool-weather", "file", "source-url", "data-state"} <= kinds
    assert rich_answer["metadata"]["usage"]["totalTokens"] == 33
    _, failed = is_the_same(aisdk[f"{version}.load.error"])
    assert failed["metadata"]["error"]["code"] == "agent_failed"
    _, typed = is_the_same(aisdk[f"{version}.load.typed"])
    assert typed["metadata"]["result"] == json.loads(RESULT)
    _, cancelled = texts(is_the_same(aisdk[f"{version}.load.cancel"]))
    assert ENDLESS.startswith(cancelled)
    assert len(cancelled) > 300
    for approved, state in ((True, "output-available"), (False, "output-denied")):
        told = aisdk[f"{version}.load.approve-{json.dumps(approved)}"]
        _, asking = is_the_same(told["asking"])
        assert asking["parts"][-1]["state"] == "approval-requested"
        _, answered = is_the_same(told["answered"])
        (call,) = [part for part in answered["parts"] if part["type"] == "tool-weather"]
        assert (call["state"], call["approval"]["approved"], call["approval"]["reason"]) == (state, approved, "because")
    asked, answered = is_the_same(aisdk[f"{version}.load.client-tool"])
    assert texts([asked, answered]) == ["client-tool", "Where are you? 7 it is."]
    assert [part["output"] for part in answered["parts"] if part["type"] == "tool-locate"] == [7]


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_loads_while_an_answer_is_coming(aisdk: Report, version: str) -> None:
    told = aisdk[f"{version}.load.while-it-comes"]
    kept = is_the_same(told)
    assert texts(kept) == ["one", "1:one", "held 1", ITEMS]
    assert told["early"] == {"messages": kept[:3], "activeRunId": kept[3]["id"], "valid": True}
    assert told["joined"] == kept


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_loads_the_current_branch(aisdk: Report, version: str) -> None:
    told = aisdk[f"{version}.load.branches"]
    assert texts(is_the_same(told["regenerated"])) == ["one", "1:one", "two", "3:two"]
    assert texts(is_the_same(told["edited"])) == ["uno", "1:uno"]
    assert texts(is_the_same(told["on"])) == ["uno", "1:uno", "dos", "3:dos"]


@pytest.mark.parametrize("version", VERSIONS)
def test_ai_sdk_sends_its_last_message_alone(aisdk: Report, version: str) -> None:
    for how in ("last", "message"):
        told = aisdk[f"{version}.alone.{how}"]
        assert told["texts"] == ["1:one", "3:two", "3:two", "1:uno", "1:uno", "3:dos"]
        assert texts(is_the_same(told)) == ["uno", "1:uno", "dos", "3:dos"]
    told = aisdk[f"{version}.alone.new-page"]
    assert told["texts"] == ["3:two", "5:three"], "a page that has not loaded the chat"
    assert texts(told["loaded"]["messages"]) == ["one", "1:one", "two", "3:two", "three", "5:three"]


@pytest.mark.parametrize("cut", ALL)
def test_use_chat_resumes_on_a_new_page(network: Network, react: Report, cut: str) -> None:
    name = f"react.durable.{cut}.resume"
    told = react[name]
    assert 300 < told["seen"] < len(ITEMS)
    assert (told["text"], told["status"], told["roles"]) == (ITEMS, "ready", ["assistant"])
    if cut != "none":
        assert network.cuts(cut, name) == [CUTS_PER_ANSWER]


@pytest.mark.parametrize("cut", ALL)
def test_use_chat_shows_everything_and_regenerates(network: Network, react: Report, cut: str) -> None:
    name = f"react.durable.{cut}.rich"
    told = react[name]
    assert (told["text"], told["reasoning"]) == (ITEMS, "".join(REASONING))
    (call,) = told["tools"]
    assert (call["state"], call["input"], call["output"]) == (
        "output-available",
        json.loads("".join(ARGUMENTS)),
        json.loads(RESULT),
    )
    assert {"data-state", "data-step", "data-progress", "data-beat", "source-url", "file"} <= set(told["others"])
    assert told["usage"]["totalTokens"] == 33
    assert (told["roles"], told["status"], told["finished"]) == (["user", "assistant"], "ready", ["stop", "stop"])
    if cut != "none":
        assert network.cuts(cut, name) == [CUTS_PER_ANSWER] * 2
    told = react[f"react.durable.{cut}.error"]
    assert (told["text"], told["status"]) == ("".join(TEXT), "error")
    told = react[f"react.durable.{cut}.approve"]
    assert (told["text"], told["roles"], told["status"]) == (APPROVED, ["user", "assistant"], "ready")
    assert [call["state"] for call in told["tools"]] == ["output-available"]


@pytest.mark.parametrize("cut", ALL)
def test_use_chat_without_it_sees_a_cut_for_what_it_is(react: Report, cut: str) -> None:
    told = react[f"react.plain.{cut}.rich"]
    assert ITEMS.startswith(told["text"])
    (finished,) = told["finished"]
    assert (told["text"] == ITEMS) == (finished.get("finishReason") == "stop") == (cut == "none")
    assert finished["isError"] == (cut == "abrupt") == (told["status"] == "error")


def test_use_chat_stops(react: Report) -> None:
    assert react["react.durable.none.nothing-to-resume"]["count"] == 0
    assert ENDLESS.startswith(react["react.durable.none.stop"]["text"])


# -- AG-UI ------------------------------------------------------------------------------------------------------------


def is_whole_thread(told: dict[str, Any]) -> None:
    assert told["text"] == ITEMS
    assert told["reasoning"] == "".join(REASONING)
    assert told["tools"] == [{"name": "weather", "arguments": "".join(ARGUMENTS)}]
    assert told["results"] == [RESULT]
    assert told["activities"] == [{"found": 2}]
    assert told["state"] == {"stage": "tell", "notes": []}
    assert (told["first"], told["last"], told["outcome"]) == ("RUN_STARTED", "RUN_FINISHED", "success")
    assert "runError" not in told


@pytest.mark.parametrize("cut", ALL)
def test_http_agent_over_the_durable_fetch(network: Network, agui: Report, cut: str) -> None:
    name = f"agui.durable.{cut}"
    is_whole_thread(agui[f"{name}.rich"])
    told = agui[f"{name}.error"]
    assert told["text"] == "".join(TEXT)
    assert (told["last"], told["runError"]["code"]) == ("RUN_ERROR", "agent_failed")
    assert "secret" not in told["runError"]["message"]
    told = agui[f"{name}.cancel"]
    assert ENDLESS.startswith(told["text"])
    assert len(told["text"]) > 3000
    assert told["outcome"] == "cancelled"
    told = agui[f"{name}.approve"]
    assert (told["asked"]["outcome"], told["asked"]["interrupts"]) == ("interrupt", 1)
    assert (told["text"], told["results"], told["interrupts"]) == (APPROVED, [RESULT], 0)
    assert (told["outcome"], "runError" in told) == ("success", False)
    if cut != "none":
        assert network.cuts(cut, f"{name}.rich") == [CUTS_PER_ANSWER]
        assert network.cuts(cut, f"{name}.cancel")[0] >= 1


@pytest.mark.parametrize("cut", ALL)
def test_http_agent_joins_late(network: Network, agui: Report, cut: str) -> None:
    told = agui[f"agui.durable.{cut}.join"]
    is_whole_thread(told)
    is_whole_thread(told["whole"])
    assert told["starts"][:3] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT"]
    assert told["starts"][3] == "TEXT_MESSAGE_START", "what is open is opened again"
    assert "REASONING_START" not in told["starts"], "what has ended is not"
    assert "REASONING_MESSAGE_CONTENT" not in told["starts"], "what has been said comes in the snapshot alone"
    assert told["roles"] == told["whole"]["roles"]
    if cut != "none":
        assert network.cuts(cut, f"agui.durable.{cut}.join")[0] >= 3


@pytest.mark.parametrize("cut", ALL)
def test_http_agent_plain_sees_a_cut_for_what_it_is(agui: Report, cut: str) -> None:
    told = agui[f"agui.plain.{cut}.rich"]
    if cut == "none":
        return is_whole_thread(told)
    assert ITEMS.startswith(told["text"])
    assert "outcome" not in told
    assert ("runError" in told) == (cut != "clean")
    return None


def test_http_agent_conversation(agui: Report) -> None:
    told = agui["agui.durable.none.turns"]
    assert told["text"] == "1:one3:two"
    assert told["other"]["text"] == "1:one3:two5:three", "another thread's history comes with the request"
    assert agui["agui.durable.none.abort"] == {"last": "RUN_ERROR", "status": "running"}
    assert "HTTP 422" in agui["agui.durable.none.refused"]["runError"]["message"]
    told = agui["agui.durable.none.client-tool"]
    assert (told["text"], told["results"]) == ("Where are you? Zürich it is.", ["Zürich"])


@pytest.mark.parametrize("cut", ALL)
def test_tanstack_resumes_by_itself(network: Network, tanstack: Report, cut: str) -> None:
    for name in (f"tanstack.native.{cut}.rich", f"tanstack.durable.{cut}.rich"):
        told = tanstack[name]
        assert told["text"] == ITEMS
        assert told["reasoning"] == "".join(REASONING)
        assert told["tools"] == [{"name": "weather", "arguments": "".join(ARGUMENTS)}]
        assert told["results"] == [RESULT]
        assert (told["status"], "error" in told) == ("ready", False)
        if cut != "none":
            assert network.cuts(cut, name) == [CUTS_PER_ANSWER]
    told = tanstack[f"tanstack.native.{cut}.error"]
    assert (told["text"], told["status"]) == ("".join(TEXT), "error")
    told = tanstack[f"tanstack.native.{cut}.cancel"]
    assert ENDLESS.startswith(told["text"])
    assert (len(told["text"]) > 3000, told["status"]) == (True, "ready")
    told = tanstack[f"tanstack.native.{cut}.join"]
    assert told["text"] == told["asked"]["text"] == ITEMS


@pytest.mark.parametrize("cut", ALL)
def test_tanstack_tools_and_questions(network: Network, tanstack: Report, cut: str) -> None:
    told = tanstack[f"tanstack.native.{cut}.client-tool"]
    assert (told["text"], told["input"], told["results"]) == (
        "Where are you? Zürich it is.",
        {"precise": True},
        ["Zürich"],
    )
    told = tanstack[f"tanstack.native.{cut}.approve"]
    assert told["asked"] == ["Look it up?"]
    assert (told["text"], told["results"]) == (APPROVED, [RESULT])
    assert (told["status"], "error" in told) == ("ready", False)
    if cut != "none":
        assert min(network.cuts(cut, f"tanstack.native.{cut}.approve")) >= 2


@pytest.mark.parametrize("cut", ALL)
def test_tanstack_opens_a_page_on_an_answer_that_is_coming(network: Network, tanstack: Report, cut: str) -> None:
    name = f"tanstack.native.{cut}.hydrate-active"
    told = tanstack[name]
    assert ENDLESS.startswith(told["text"])
    assert (told["same"], told["shown"], told["status"]) == (True, ["user", "assistant"], "ready")
    if cut != "none":
        assert network.cuts(cut, name)[0] >= 1


def test_tanstack_opens_a_page_on_what_was_said(tanstack: Report) -> None:
    told = tanstack["tanstack.native.none.hydrate-ended"]
    assert told["second"] == told["first"]
    assert len(told["first"]) == 5
    told = tanstack["tanstack.native.none.hydrate-waiting"]
    assert (told["before"]["text"], told["asked"], told["text"]) == ("May I? ", ["Look it up?"], APPROVED)
    told = tanstack["tanstack.native.none.hydrate-nothing"]
    assert told == {"status": 200, "body": {"messages": [], "activeRun": None, "interrupts": None}}


def test_tanstack_cut_after_the_last_event(tanstack: Report) -> None:
    told = tanstack["tanstack.native.none.cut-at-the-end"]
    assert (told["cut"], told["text"], told["status"], "error" in told) == (1, "1:hello", "ready", False)
    assert tanstack["tanstack.native.none.turns"]["text"] == "1:one3:two"


# -- OpenAI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ALL)
def test_openai_over_the_durable_fetch(network: Network, openai: Report, cut: str) -> None:
    told = openai[f"openai.durable.{cut}.chat-rich"]
    assert (told["text"], told["finishReason"]) == (ANSWER, "stop")
    assert (told["usage"]["total_tokens"], "error" in told) == (33, False)
    if cut != "none":
        assert network.proxies[cut].cuts[told["id"].removeprefix("chatcmpl-")] == CUTS_PER_ANSWER
    told = openai[f"openai.durable.{cut}.chat-error"]
    assert told["text"] == "".join(TEXT)
    assert told["error"]["name"] == "APIError"
    assert "secret" not in told["error"]["message"]
    assert openai[f"openai.durable.{cut}.chat-rich"]["reasoning"] == "".join(REASONING)
    told = openai[f"openai.durable.{cut}.chat-tool"]
    assert (told["text"], told["calls"], told["arguments"]) == ("Let me see. ", ["locate"], LONG_ARGUMENTS)
    assert (told["finishReason"], "error" in told) == ("tool_calls", False)
    told = openai[f"openai.durable.{cut}.chat-cancel"]
    assert ENDLESS.startswith(told["text"])
    assert (told["error"]["code"], "finishReason" in told) == ("run_cancelled", False)
    if cut != "none":
        for case, least in (("chat-tool", CUTS_PER_ANSWER), ("chat-cancel", 1)):
            run_id = openai[f"openai.durable.{cut}.{case}"]["id"].removeprefix("chatcmpl-")
            assert network.proxies[cut].cuts[run_id] >= least


@pytest.mark.parametrize("cut", ALL)
def test_openai_responses_over_the_durable_fetch(network: Network, openai: Report, cut: str) -> None:
    told = openai[f"openai.durable.{cut}.responses-rich"]
    assert (told["text"], told["reasoning"], told["last"]) == (RESPONSE, "".join(REASONING), "response.completed")
    assert told["kinds"] == ["reasoning", "message", "mcp_call", "message", "message"]
    told = openai[f"openai.durable.{cut}.responses-tool"]
    assert (told["text"], told["arguments"], told["last"]) == ("Let me see. ", LONG_ARGUMENTS, "response.completed")
    assert told["kinds"] == ["message", "function_call"]
    told = openai[f"openai.durable.{cut}.responses-error"]
    assert (told["text"], told["last"], told["failure"]) == ("".join(TEXT), "response.failed", "agent_failed")
    told = openai[f"openai.durable.{cut}.responses-cancel"]
    assert ENDLESS.startswith(told["text"])
    assert (told["last"], told["status"]) == ("response.incomplete", "cancelled")
    if cut != "none":
        for case in ("rich", "tool", "error", "cancel"):
            run_id = openai[f"openai.durable.{cut}.responses-{case}"]["id"].removeprefix("resp_")
            assert network.proxies[cut].cuts[run_id] >= (1 if case == "cancel" else CUTS_PER_ANSWER)


@pytest.mark.parametrize("cut", CUTS)
def test_openai_resumes_responses_by_number(network: Network, openai: Report, cut: str) -> None:
    told = openai[f"openai.native.{cut}.responses-rich"]
    assert (told["text"], told["last"]) == (RESPONSE, "response.completed")
    assert network.proxies[cut].cuts[told["id"].removeprefix("resp_")] == CUTS_PER_ANSWER


@pytest.mark.parametrize("cut", ALL)
def test_openai_plain_sees_a_cut_for_what_it_is(openai: Report, cut: str) -> None:
    chat, responses = openai[f"openai.plain.{cut}.chat-rich"], openai[f"openai.plain.{cut}.responses-rich"]
    assert ANSWER.startswith(chat["text"])
    assert RESPONSE.startswith(responses["text"])
    assert ("finishReason" in chat) == (cut == "none") == (responses["last"] == "response.completed")
    assert ("error" in chat) == (cut in ("abrupt", "mid-frame")) == ("error" in responses)


# -- EventSource and the durable fetch itself -------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ALL)
def test_event_source_resumes_by_itself(network: Network, eventsource: Report, cut: str) -> None:
    for case, whole in (("rich", ITEMS), ("chat", ANSWER)):
        name = f"eventsource.native.{cut}.{case}"
        assert eventsource[name] == {"text": whole, "unique": True}
        if cut != "none":
            assert network.cuts(cut, name) == [CUTS_PER_ANSWER]


@pytest.mark.parametrize("cut", ALL)
@pytest.mark.parametrize("wire", ["ag-ui", "vercel", "text"])
def test_durable_fetch_gives_every_byte_once(network: Network, durable: Report, wire: str, cut: str) -> None:
    name = f"durable.{wire}.{cut}.bytes"
    assert durable[name]["same"], durable[name]
    if cut != "none":
        assert network.cuts(cut, name) == [CUTS_PER_ANSWER]


def test_durable_fetch_aborts_fails_and_gives_up(durable: Report) -> None:
    for cut in ALL:
        assert durable[f"durable.abort.{cut}.read"] == {"error": "enough"}
    told = durable["durable.none.none.passes-errors-on"]
    assert (told["status"], told["body"]["error"]["code"]) == (404, "run_not_found")
    assert durable["durable.none.none.passes-json-on"] == {"status": "ok"}
    assert durable["durable.none.none.aborted-before"] == {"error": "no"}
    told = durable["durable.none.none.gives-up"]
    assert (told["name"], told["cause"], told["calls"]) == ("TypeError", "connection_lost", 1 + 4)
    assert durable["durable.none.none.stalls"] == {"text": ITEMS, "hung": 1}
    assert durable["durable.none.none.refused-later"] == {"typed": True, "status": 404, "code": "run_not_found"}
    assert durable["durable.none.none.cancel"] == {"status": "cancelled"}
    assert durable["durable.none.none.elsewhere"] == {"text": "data: 1\n\n", "calls": 1}


def test_durable_fetch_repeats_a_start_that_names_its_run(durable: Report) -> None:
    for lost in ("network", "status"):
        for told in durable[f"durable.start.{lost}.named"]:
            assert told == {"calls": 3, "same": True, "status": 200, "ended": True}
        *unnamed, bounded, final = durable[f"durable.start.{lost}.unnamed"]
        assert [told["calls"] for told in (*unnamed, bounded, final)] == [1, 1, 1, 2, 1]
    assert durable["durable.start.aborted"] == {"error": "enough"}
