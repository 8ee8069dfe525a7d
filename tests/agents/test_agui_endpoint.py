"""AG-UI services by URL, scripted byte for byte."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gapless import Runner
from gapless.errors import (
    GaplessError,
    ModelFailed,
)
from gapless.events import (
    Interrupt,
    RawEvent,
    ResumeEntry,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    ToolCallArgsEvent,
)
from tests.support.endpoints import WEATHER, ask
from tests.support.upstream import Reply, sse, upstream


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GAPLESS_ENDPOINT_KEY", "GAPLESS_MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("clean", [False, True], ids=["abrupt", "clean"])
async def test_an_ag_ui_run_cut_anywhere_is_never_taken_for_whole(clean: bool) -> None:
    reply = Reply(AGUI, clean=clean)
    whole_from = len(AGUI)
    async with upstream(reply) as up, Runner(up.url + "/ag-ui") as runner:
        for position in range(len(AGUI)):
            reply.cut_at = position
            record = await (await runner.start("Hi")).wait()
            assert position < whole_from
            assert record.error is not None, position
            assert record.error["code"] == "endpoint_cut", position


async def test_patches_of_a_large_state_are_work_for_their_own_bytes() -> None:
    state = {"type": "STATE_SNAPSHOT", "snapshot": {"rows": [[n] for n in range(60_000)]}}
    patches = ({"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/n", "value": n}]} for n in range(1000))
    finish = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
    async with upstream(Reply(sse(state, *patches, finish))) as up, asyncio.timeout(60):  # minutes if each copies it
        fold, _ = await ask(up.url + "/ag-ui")
    assert fold.state["n"] == 999


AGUI = sse(
    {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
    {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "Hello"},
    {"type": "STATE_SNAPSHOT", "snapshot": {"n": 1}},
    {"type": "TEXT_MESSAGE_END", "messageId": "m"},
    {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "result": {"ok": True}},
)


async def test_an_ag_ui_services_events_become_the_runs() -> None:
    async with upstream(Reply(AGUI)) as up:
        fold, events = await ask(up.url + "/ag-ui", session_id="s", run_id="r1", tools=[WEATHER])
    assert fold.text == "Hello"
    assert fold.state == {"n": 1}
    assert fold.finished is not None
    assert fold.finished.result == {"ok": True}
    assert [type(e).__name__ for e in events] == [
        "RunStartedEvent",
        "TextMessageStartEvent",
        "TextMessageContentEvent",
        "StateSnapshotEvent",
        "TextMessageEndEvent",
        "RunFinishedEvent",
    ]
    assert up.requests[0].body == {
        "threadId": "s",
        "runId": "r1",
        "messages": [{"role": "user", "id": "r1-user", "content": "Hi"}],
        "state": {},
        "tools": [{"name": "weather", "description": "Tells the weather.", "parameters": WEATHER.parameters}],
        "context": [],
        "forwardedProps": {},
    }


async def test_events_of_another_version_are_passed_on_raw() -> None:
    odd = {"type": "THINKING_START", "title": "hm"}
    async with upstream(Reply(sse(odd) + AGUI)) as up:
        _, events = await ask(up.url + "/ag-ui")
    assert [e.event for e in events if isinstance(e, RawEvent)] == [odd]


async def test_an_ag_ui_services_own_error_is_the_runs() -> None:
    async with upstream(Reply(sse({"type": "RUN_ERROR", "message": "no luck", "code": "luck"}))) as up:
        with pytest.raises(GaplessError, match="no luck") as error:
            await ask(up.url + "/ag-ui")
    assert error.value.code == "luck"


async def test_an_ag_ui_services_interrupt_is_asked_here_and_answered_there() -> None:
    asks = RunFinishedInterruptOutcome(interrupts=[Interrupt(id="i1", reason="confirm")])
    finished = msgspec.to_builtins(RunFinishedEvent(thread_id="t", run_id="r", outcome=asks))
    call = {"toolCallId": "c", "toolCallName": "order"}
    first = sse(
        {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
        {"type": "TOOL_CALL_START", **call},
        {"type": "TOOL_CALL_END", **call},
        finished,
    )
    async with upstream(Reply(first), Reply(AGUI)) as up, Runner(up.url + "/ag-ui") as runner:
        run = await runner.start("Hi", run_id="r1")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and isinstance(event.outcome, RunFinishedInterruptOutcome):
                await run.answer([ResumeEntry(interrupt_id="i1", status="resolved", payload={"yes": True})])
        assert (await run.collect()).text == "Hello"
    again = up.requests[1].body
    assert again["runId"] == "r1-2"
    assert [(m["role"], [c["id"] for c in m.get("toolCalls", ())]) for m in again["messages"]] == [
        ("user", []),
        ("assistant", ["c"]),
    ]
    assert again["resume"] == [{"interruptId": "i1", "status": "resolved", "payload": {"yes": True}}]


@pytest.mark.parametrize("reply", [Reply(b"{}", content_type="application/json"), Reply(sse("nonsense"))])
async def test_what_is_not_ag_ui_is_said_to_be_that(reply: Reply) -> None:
    async with upstream(reply) as up:
        with pytest.raises(GaplessError, match="not an AG-UI") as error:
            await ask(up.url + "/ag-ui")
    assert error.value.code == ModelFailed.code


async def test_an_emoji_divided_between_two_events_is_whole() -> None:
    run = {"threadId": "t", "runId": "r"}
    body = sse(
        {"type": "RUN_STARTED", **run},
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "a\ud83d"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "\ude00b"},
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "f"},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": '["\ud83d'},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": '\ude00"]'},
        {"type": "TOOL_CALL_END", "toolCallId": "c"},
        {"type": "RUN_FINISHED", **run},
    )
    async with upstream(Reply(body)) as up:
        fold, events = await ask("ag-ui+" + up.url)
    assert fold.text == "a😀b"
    assert "".join(e.delta for e in events if isinstance(e, ToolCallArgsEvent)) == '["😀"]'
