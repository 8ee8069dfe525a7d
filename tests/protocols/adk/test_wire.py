"""The wire adk over made-up runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.adk.events import Event as ADKEvent
from google.genai import types

from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    MessagesSnapshotEvent,
    ReasoningMessageContentEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    encode_event,
)
from gapless.protocols.adk import wire as adk_wire
from gapless.protocols.adk.wire import ADKEncoder, WholeADKEncoder
from gapless.records import RunRecord

RUN = RunRecord(id="r", session_id="s", user_id="u", agent="helper", message="hi", created_at=1_000)
START = RunStartedEvent(thread_id="s", run_id="r", timestamp=2_500)


def finished(**fields: Any) -> RunFinishedEvent:
    return RunFinishedEvent(thread_id="s", run_id="r", **fields)


def said(id: str, *deltas: str, name: str | None = None) -> list[Event]:
    return [
        TextMessageStartEvent(message_id=id, role="assistant", name=name),
        *[TextMessageContentEvent(message_id=id, delta=delta) for delta in deltas],
        TextMessageEndEvent(message_id=id),
    ]


def called(id: str, name: str = "look", args: str = "{}") -> list[Event]:
    return [
        ToolCallStartEvent(tool_call_id=id, tool_call_name=name),
        ToolCallArgsEvent(tool_call_id=id, delta=args),
        ToolCallEndEvent(tool_call_id=id),
    ]


def encoded(*events: Event, cls: type[ADKEncoder] = ADKEncoder) -> list[dict[str, Any]]:
    encoder = cls(RUN)
    return [json.loads(frame) for event in (START, *events) for frame in encoder.frames(encode_event(event))]


def parts(event: dict[str, Any]) -> list[dict[str, Any]]:
    return event["content"]["parts"]  # type: ignore[no-any-return]  # a JSON array


def parts_of(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Of an event that may have no content."""
    return parts(event) if "content" in event else []


def test_text_is_partial_then_whole_under_one_id():
    usage = [TokenUsage(input_tokens=3, output_tokens=4), TokenUsage(input_tokens=1)]
    end = finished(usage=usage)
    finish = CustomEvent(name="gapless.finish", value={"reason": "length"})
    first, second, whole = encoded(*said("m", 'a "b"\n', "ü\u2028"), finish, end)
    assert (parts(first), first["partial"]) == ([{"text": 'a "b"\n'}], True)
    assert parts(second) == [{"text": "ü\u2028"}]
    assert parts(whole) == [{"text": 'a "b"\nü\u2028'}]
    assert {event["id"] for event in (first, second, whole)} == {"m"}
    assert (whole["partial"], whole["finishReason"]) == (False, "MAX_TOKENS")
    assert whole["usageMetadata"] == {"promptTokenCount": 4, "candidatesTokenCount": 4, "totalTokenCount": 8}
    assert (whole["timestamp"], whole["invocationId"], whole["author"]) == (2.5, "r", "helper")


def test_a_message_that_goes_on_behind_a_whole_event_is_another_event():
    """ADK's page shows one event for each id: the text before would be gone."""
    start, before, after, end = said("m", "Look: ", "a dot.")
    file = CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": "AAAA"})
    for between in (file, StateSnapshotEvent(snapshot={"a": 1}), called("c")[0]):
        events = [start, before, between, *called("c")[1:], after, end, finished()]
        frames = encoded(*events)
        whole = {frame["id"]: frame for frame in frames if not frame.get("partial")}
        assert len(whole) == sum(not frame.get("partial") for frame in frames)
        assert "".join(part.get("text", "") for frame in whole.values() for part in parts_of(frame)) == "Look: a dot."
        pieces = {frame["id"]: parts(frame)[0]["text"] for frame in frames if frame.get("partial")}
        assert all(parts(whole[id])[0]["text"] == text for id, text in pieces.items())


def test_reasoning_and_text_of_one_response_are_parts_of_one_event():
    thought = ReasoningMessageContentEvent(message_id="t", delta="hm")
    *partial, whole = encoded(thought, *said("m", "So."), finished())
    assert [parts(event) for event in partial] == [[{"text": "hm", "thought": True}], [{"text": "So."}]]
    assert parts(whole) == [{"text": "hm", "thought": True}, {"text": "So."}]
    assert {event["id"] for event in (*partial, whole)} == {"t"}


def test_a_call_goes_out_whole_with_the_text_before_it():
    result = ToolCallResultEvent(message_id="x", tool_call_id="c", content="blue")
    events = encoded(*said("m", "Let me see."), *called("c", args='{"a":1}'), result, finished(), cls=WholeADKEncoder)
    call = {"functionCall": {"id": "c", "args": {"a": 1}, "name": "look"}}
    assert parts(events[0]) == [{"text": "Let me see."}, call]
    assert parts(events[1]) == [{"functionResponse": {"id": "c", "name": "look", "response": {"result": "blue"}}}]
    assert len(events) == 2


@pytest.mark.parametrize(
    ("text", "args"), [("", {}), ("[1]", {"_raw": "[1]"}), ('{"a"', {"_raw": '{"a"'}), ('{"a":{}}', {"a": {}})]
)
def test_arguments_that_are_no_object_are_kept_as_they_are(text: str, args: Any):
    (event,) = encoded(*called("c", args=text), finished())
    assert parts(event)[0]["functionCall"]["args"] == args


def test_agents_that_speak_at_once_do_not_mix():
    left, right = said("l", "l1 ", "l2", name="left"), said("r", "r1 ", "r2", name="right")
    mixed = [event for pair in zip(left, right, strict=True) for event in pair]
    steps = [StepStartedEvent(step_name=name) for name in ("left", "right")]
    ends = [StepFinishedEvent(step_name=name) for name in ("left", "right")]
    events = encoded(*steps, *mixed, *ends, finished(), cls=WholeADKEncoder)
    assert [(event["author"], parts(event)) for event in events] == [
        ("left", [{"text": "l1 l2"}]),
        ("right", [{"text": "r1 r2"}]),
    ]


def test_what_one_agent_said_comes_before_the_next():
    events = encoded(
        *said("a", "One moment. ", name="root"),
        StepStartedEvent(step_name="weather"),
        *called("c"),
        StepFinishedEvent(step_name="weather"),
        *called("d"),
        *said("b", "Sunny."),
        finished(),
        cls=WholeADKEncoder,
    )
    assert [(event["author"], next(iter(parts(event)[0]))) for event in events] == [
        ("root", "text"),
        ("weather", "functionCall"),
        ("root", "functionCall"),
        ("root", "text"),
    ]


def test_state_comes_as_what_changed():
    events = encoded(
        StateSnapshotEvent(snapshot={"a": 1, "b": {"c": 1}}),
        StateDeltaEvent(delta=[{"op": "add", "path": "/b/c", "value": 2}]),
        StateDeltaEvent(delta=[{"op": "remove", "path": "/a"}]),
        StateSnapshotEvent(snapshot={"b": {"c": 2}}),
        finished(),
    )
    assert [event["actions"]["stateDelta"] for event in events] == [
        {"a": 1, "b": {"c": 1}},
        {"b": {"c": 2}},
        {"a": None},
    ]
    assert len({event["id"] for event in events}) == 3


@pytest.mark.parametrize(
    ("patch", "delta"),
    [
        ([{"op": "replace", "path": "/a~1b/c~0d", "value": 2}], {"a/b": {"c~d": 2}}),
        ([{"op": "move", "from": "/x", "path": "/y"}], {"x": None, "y": 1}),
        ([{"op": "copy", "from": "/x", "path": "/a~1b/e"}], {"a/b": {"c~d": 1, "e": 1}}),
        ([{"op": "replace", "path": "", "value": {"x": 1}}], {"a/b": None, "large": None}),
        ([{"op": "add", "path": "/", "value": 3}], {"": 3}),
        ([{"op": "add", "path": "/x", "value": 3}, {"op": "test", "path": "/nowhere", "value": 1}], None),
    ],
)
def test_a_patch_of_the_state_says_what_it_changes_of_it(patch: list[dict[str, Any]], delta: dict[str, Any] | None):
    state = {"a/b": {"c~d": 1}, "x": 1, "large": ["much"]}
    events = encoded(StateSnapshotEvent(snapshot=state), StateDeltaEvent(delta=patch), finished())
    assert [event["actions"]["stateDelta"] for event in events[1:]] == ([] if delta is None else [delta])


def test_the_state_of_a_run_that_begins_anew_is_void():
    events = encoded(
        StateSnapshotEvent(snapshot={"a": 1, "b": 1}),
        CustomEvent(name="gapless.restarted", value={"restarts": 1}),
        StateDeltaEvent(delta=[{"op": "add", "path": "/b", "value": 2}]),
        finished(),
    )
    assert events[-1]["actions"]["stateDelta"] == {"a": None, "b": 2}


def test_a_small_patch_does_not_go_through_a_large_state(monkeypatch: pytest.MonkeyPatch):
    went_through: list[Any] = []
    encode = adk_wire._encode
    encoder = ADKEncoder(RUN)
    encoder.frames_of(StateSnapshotEvent(snapshot={"large": ["much"], "x": 1}))
    monkeypatch.setattr(adk_wire, "_encode", lambda value: went_through.append(value) or encode(value))  # type: ignore[func-returns-value]
    assert encoder.frames_of(StateDeltaEvent(delta=[{"op": "replace", "path": "/x", "value": 2}]))
    assert 2 in went_through
    assert ["much"] not in went_through


def test_only_the_assistants_words_are_said():
    others = [
        TextMessageStartEvent(message_id="o", role="system"),
        TextMessageContentEvent(message_id="o", delta="secret"),
        TextMessageEndEvent(message_id="o"),
    ]
    assert encoded(*others, finished()) == []


def test_files_and_notices():
    file = CustomEvent(name="gapless.file", value={"mimeType": "image/png", "data": "UE5H"})
    link = CustomEvent(name="gapless.file", value={"mimeType": "image/png", "url": "https://x/y.png"})
    notice = CustomEvent(name="gapless.notice", value={"code": "c", "message": "m"})
    inline, linked, noticed = encoded(file, link, notice, CustomEvent(name="own", value=1), finished())
    assert parts(inline) == [{"inlineData": {"data": "UE5H", "mimeType": "image/png"}}]
    assert parts(linked) == [{"fileData": {"fileUri": "https://x/y.png", "mimeType": "image/png"}}]
    assert noticed["customMetadata"] == {"gapless.notice": {"code": "c", "message": "m"}}


@pytest.mark.parametrize("cls", [ADKEncoder, WholeADKEncoder])
def test_sound_goes_beside_the_text_as_adk_sends_it(cls: type[ADKEncoder]):
    sound = CustomEvent(name="gapless.audio", value={"mimeType": "audio/pcm;rate=24000", "data": "+/+/"})
    start, one, two, end = said("m", "one ", "two")
    complete = CustomEvent(name="gapless.turn_complete", value={})
    frames = encoded(start, one, sound, two, end, complete, finished(), cls=cls)
    (aloud,) = [frame for frame in frames if "inlineData" in str(frame)]
    *_, whole, mark = [frame for frame in frames if frame is not aloud]
    event = ADKEvent.model_validate(aloud)
    assert event.content is not None
    assert event.content.parts is not None
    assert event.content.parts[0].inline_data == types.Blob(data=b"\xfb\xff\xbf", mime_type="audio/pcm;rate=24000")
    assert json.loads(event.model_dump_json(by_alias=True, exclude_none=True))["content"] == aloud["content"]
    assert "partial" not in aloud
    assert parts(whole) == [{"text": "one two"}]
    assert mark["turnComplete"] is True


def test_an_interruption_comes_after_what_it_interrupted():
    *_, whole, mark = encoded(*said("m", "one "), CustomEvent(name="gapless.interrupted", value={}), finished())
    assert parts(whole) == [{"text": "one "}]
    assert mark["interrupted"] is True
    assert ADKEvent.model_validate(mark).interrupted


def test_an_output_without_words_is_an_event():
    (event,) = encoded(finished(result={"n": 1}))
    assert event["output"] == {"n": 1}


def test_what_was_said_before_a_restart_is_void():
    restarted = CustomEvent(name="gapless.restarted", value={"restarts": 1})
    snapshot = MessagesSnapshotEvent(messages=[])
    events = encoded(*said("m", "void"), restarted, snapshot, *said("n", "anew"), finished(), cls=WholeADKEncoder)
    assert events[0]["customMetadata"] == {"gapless.restarted": {"restarts": 1}}
    assert [parts(event) for event in events[1:]] == [[{"text": "anew"}]]


def test_a_cancelled_run_keeps_its_text_and_says_so():
    *_, whole, aborted = encoded(*said("m", "so far"), finished(outcome=RunFinishedCancelledOutcome()))
    assert (parts(whole), whole["interrupted"]) == ([{"text": "so far"}], True)
    assert aborted["errorCode"] == "INVOCATION_ABORTED"


def test_a_failed_run_ends_as_adks_do():
    *_, whole, failed, last = encoded(*said("m", "so far"), RunErrorEvent(message="it broke", code="tool_failed"))
    assert parts(whole) == [{"text": "so far"}]
    assert (failed["errorCode"], failed["errorMessage"]) == ("tool_failed", "it broke")
    assert last["error"] == "tool_failed: it broke"


def test_an_approval_is_asked_for_as_adk_does():
    interrupt = Interrupt(id="i", reason="tool_call", message="Sure?", tool_call_id="c")
    pause = finished(outcome=RunFinishedInterruptOutcome(interrupts=[interrupt]))
    call, asked = encoded(*called("c", "fire", '{"what":"job"}'), pause)
    assert call["longRunningToolIds"] == []
    assert asked["longRunningToolIds"] == ["i"]
    assert parts(asked)[0]["functionCall"] == {
        "id": "i",
        "name": "adk_request_confirmation",
        "args": {
            "originalFunctionCall": {"id": "c", "name": "fire", "args": {"what": "job"}},
            "toolConfirmation": {"hint": "Sure?", "confirmed": False},
        },
    }
