"""The wire `vercel`: which chunks an AI SDK client gets for what an agent says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UserMessage,
    encode_event,
)
from gapless.protocols.vercel.wire import CONTINUES, VercelEncoder
from gapless.records import RunRecord

STARTED = RunStartedEvent(thread_id="s", run_id="r")
SUCCESS = RunFinishedEvent(thread_id="s", run_id="r", outcome=RunFinishedSuccessOutcome())
OPENING = ["start", "start-step"]


def record(**fields: Any) -> RunRecord:
    return RunRecord(id="r", session_id="s", user_id="u", agent="a", message="m", created_at=1, **fields)


def chunks(*events: Event, run: RunRecord | None = None) -> list[Any]:
    encoder = VercelEncoder(run or record())
    data = [frame for event in events for frame in encoder.frames(encode_event(event))]
    return [one.decode() if one == b"[DONE]" else json.loads(one) for one in data]


def kinds(*events: Event) -> list[str]:
    return [one if isinstance(one, str) else one["type"] for one in chunks(*events)]


def text(id: str, *deltas: str, role: Any = "assistant") -> list[Event]:
    contents = [TextMessageContentEvent(message_id=id, delta=delta) for delta in deltas]
    return [TextMessageStartEvent(message_id=id, role=role), *contents, TextMessageEndEvent(message_id=id)]


def call(id: str, *deltas: str) -> list[Event]:
    arguments = [ToolCallArgsEvent(tool_call_id=id, delta=delta) for delta in deltas]
    return [ToolCallStartEvent(tool_call_id=id, tool_call_name="t"), *arguments, ToolCallEndEvent(tool_call_id=id)]


def result(id: str, content: str = "done") -> Event:
    return ToolCallResultEvent(message_id=f"{id}-result", tool_call_id=id, content=content)


def test_text_and_reasoning():
    thought = [
        ReasoningMessageStartEvent(message_id="1"),
        ReasoningMessageContentEvent(message_id="1", delta="hm"),
        ReasoningMessageEndEvent(message_id="1"),
    ]
    assert chunks(STARTED, *thought, *text("1", "a", "", "é"), SUCCESS) == [
        {"type": "start", "messageId": "r", "messageMetadata": {"runId": "r", "sessionId": "s"}},
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "1"},
        {"type": "reasoning-delta", "id": "1", "delta": "hm"},
        {"type": "reasoning-end", "id": "1"},
        {"type": "text-start", "id": "1"},
        {"type": "text-delta", "id": "1", "delta": "a"},
        {"type": "text-delta", "id": "1", "delta": "é"},
        {"type": "text-end", "id": "1"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop"},
        "[DONE]",
    ]


def test_messages_that_are_not_the_assistants_stay_out():
    assert kinds(STARTED, *text("1", "secret", role="system")) == OPENING


def test_a_call_is_complete_before_it_is_available():
    assert chunks(*call("c", '{"a"', ":1}"), result("c", '{"b":2}')) == [
        {"type": "tool-input-start", "toolCallId": "c", "toolName": "t"},
        {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": '{"a"'},
        {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": ":1}"},
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "t", "input": {"a": 1}},
        {"type": "tool-output-available", "toolCallId": "c", "output": {"b": 2}},
    ]


@pytest.mark.parametrize(("content", "output"), [("plain", "plain"), ("{half", "{half"), ("[1]", [1]), ("7", "7")])
def test_results_that_were_objects_or_lists_are_again(content: str, output: Any):
    assert chunks(*call("c"), result("c", content))[-1]["output"] == output


def test_a_call_without_arguments_has_an_empty_object():
    assert chunks(*call("c"))[-1]["input"] == {}


def test_arguments_that_are_not_json_are_an_error():
    chunk = chunks(*call("c", "{oops"))[-1]
    assert (chunk["type"], chunk["input"], chunk["errorText"]) == (
        "tool-input-error",
        "{oops",
        "the arguments are not JSON",
    )


def test_a_result_of_an_unknown_call_does_not_break_the_clients_stream():
    assert kinds(result("elsewhere")) == ["data-tool-result"]


def test_a_step_is_a_model_call():
    said = [*text("1", "x"), *call("c"), *call("d"), result("c"), result("d"), *text("2", "y"), *call("e")]
    told = [kind for kind in kinds(STARTED, *said, SUCCESS) if "step" in kind or kind.endswith("-start")]
    assert told == [
        "start-step",
        "text-start",
        "tool-input-start",
        "tool-input-start",
        "finish-step",
        "start-step",
        "text-start",
        "tool-input-start",
        "finish-step",
    ]


def test_no_step_ends_under_an_open_part():
    opened = TextMessageStartEvent(message_id="1")
    assert "finish-step" not in kinds(STARTED, opened, *call("c"), result("c"), *call("d"))


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], "stop"),
        (call("c"), "tool-calls"),
        ([*call("c"), result("c")], "stop"),
        ([CustomEvent(name="gapless.finish", value={"reason": "length"})], "length"),
        ([CustomEvent(name="gapless.finish", value={"reason": "content_filter"})], "content-filter"),
        ([CustomEvent(name="gapless.finish", value={"reason": "surprise"})], "other"),
    ],
)
def test_finish_reason(events: list[Event], reason: str):
    assert chunks(STARTED, *events, SUCCESS)[-2]["finishReason"] == reason


def test_usage_of_all_models_and_the_result_come_with_the_end():
    usage = [TokenUsage(model="a", input_tokens=1, output_tokens=2), TokenUsage(model="b", input_tokens=10)]
    finished = RunFinishedEvent(thread_id="s", run_id="r", usage=usage, result={"x": 1})
    metadata = chunks(STARTED, finished)[-2]["messageMetadata"]
    assert metadata == {"usage": {"inputTokens": 11, "outputTokens": 2}, "result": {"x": 1}}


def test_a_failed_run():
    assert chunks(STARTED, RunErrorEvent(message="no", code="agent_failed"))[2:] == [
        {"type": "message-metadata", "messageMetadata": {"error": {"code": "agent_failed", "message": "no"}}},
        {"type": "error", "errorText": "no"},
        "[DONE]",
    ]


def test_a_cancelled_run():
    cancelled = RunFinishedEvent(thread_id="s", run_id="r", outcome=RunFinishedCancelledOutcome())
    assert kinds(STARTED, *text("1", "x"), cancelled)[-2:] == ["abort", "[DONE]"]


@pytest.mark.parametrize(
    ("answer", "denied"),
    [
        (ResumeEntry(interrupt_id="i", status="resolved", payload={"approved": True}), False),
        (ResumeEntry(interrupt_id="i", status="resolved", payload={"approved": False}), True),
        (ResumeEntry(interrupt_id="i", status="resolved", payload=False), True),
        (ResumeEntry(interrupt_id="i", status="cancelled"), True),
    ],
)
def test_approvals(answer: ResumeEntry, denied: bool):
    asked = [Interrupt(id="i", reason="tool_approval", tool_call_id="c"), Interrupt(id="form", reason="input")]
    paused = RunFinishedEvent(thread_id="s", run_id="r", outcome=RunFinishedInterruptOutcome(interrupts=asked))
    answers = RunAgentInput(thread_id="s", run_id="r", messages=[], resume=[answer])
    again = RunStartedEvent(thread_id="s", run_id="r", input=answers)
    told = chunks(STARTED, *call("c"), paused, again, result("c", "said"), *text("1", "x"), SUCCESS)
    at = [one if isinstance(one, str) else one["type"] for one in told].index("tool-approval-request")
    assert told[at : at + 5] == [
        {"type": "tool-approval-request", "approvalId": "i", "toolCallId": "c"},
        {"type": "data-interrupt", "data": {"id": "form", "reason": "input"}, "id": "form"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "tool-calls"},
        "[DONE]",
    ]
    rest = [one for one in told[at + 5 :] if isinstance(one, dict) and one["type"].startswith("tool-")]
    if denied:
        assert rest == [{"type": "tool-output-denied", "toolCallId": "c"}]
    else:
        assert rest == [{"type": "tool-output-available", "toolCallId": "c", "output": "said"}]
    assert told[-2]["finishReason"] == "stop"
    parts = [one["type"] for one in told if isinstance(one, dict) and one["type"].endswith(("start-step", "-start"))]
    assert parts == ["start-step", "tool-input-start", "start-step", "text-start"], "no step is without a part"


def test_a_run_that_goes_on_with_the_clients_message_keeps_its_id():
    run = record(input=UserMessage(id="", content="", metadata={CONTINUES: "theirs"}))
    assert chunks(STARTED, run=run)[0]["messageId"] == "theirs"


@pytest.mark.parametrize(
    ("name", "value", "chunk"),
    [
        ("progress", 5, {"type": "data-progress", "data": 5}),
        ("data-progress", 5, {"type": "data-progress", "data": 5}),
        ("gapless.notice", {"code": "x"}, {"type": "data-notice", "data": {"code": "x"}}),
        (
            "source-url",
            {"sourceId": "1", "url": "u", "other": 1},
            {"type": "source-url", "sourceId": "1", "url": "u"},
        ),
        ("source-url", {"sourceId": "1"}, {"type": "data-source-url", "data": {"sourceId": "1"}}),
        (
            "source-document",
            {"sourceId": "1", "mediaType": "m", "title": "t", "filename": "f"},
            {"type": "source-document", "sourceId": "1", "mediaType": "m", "title": "t", "filename": "f"},
        ),
        (
            "gapless.file",
            {"mimeType": "image/png", "data": "AA=="},
            {"type": "file", "url": "data:image/png;base64,AA==", "mediaType": "image/png"},
        ),
        ("gapless.file", {"mimeType": "a/b", "url": "x:y"}, {"type": "file", "url": "x:y", "mediaType": "a/b"}),
        (
            "gapless.audio",
            {"mimeType": "audio/pcm", "data": "AA=="},
            {"type": "data-audio", "data": {"mimeType": "audio/pcm", "data": "AA=="}, "transient": True},
        ),
        ("gapless.interrupted", {}, {"type": "data-interrupted", "data": {}, "transient": True}),
        ("gapless.turn_complete", {}, {"type": "data-turn_complete", "data": {}, "transient": True}),
    ],
)
def test_custom_events(name: str, value: Any, chunk: dict[str, Any]):
    assert chunks(CustomEvent(name=name, value=value)) == [chunk]


def test_a_server_that_leaves_is_an_error_to_clients_that_cannot_resume():
    frame = VercelEncoder(record()).reconnect(b"5")
    assert frame.startswith(b"event: reconnect\ndata: ")
    assert frame.endswith(b"\nid: 5\n\n")
    assert json.loads(frame.split(b"data: ")[1].split(b"\n")[0])["type"] == "error"
