"""Cursors, and what every wire does alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from gapless.errors import CursorInvalid, InputInvalid
from gapless.events import (
    CustomEvent,
    Event,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    decode_event,
    encode_event,
)
from gapless.fold import RESTARTED, VOID, Fold, Void
from gapless.journals.merge import merge_deltas
from gapless.jsontext import with_plain_lines
from gapless.messages import TextPart, TextRole
from gapless.protocols import WIRES
from gapless.protocols.adk.wire import WholeADKEncoder
from gapless.protocols.ag_ui.wire import ChatAGUIEncoder, OldAGUIEncoder, SessionAGUIEncoder
from gapless.records import RunRecord
from gapless.wire import Cursor, Encoder, parse_cursor, wire, without_void
from tests.support.sse import frames

RUN = RunRecord(id="r", session_id="s", user_id="u", agent="a", message="m", created_at=0)


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("0", Cursor(0)),
        ("7", Cursor(7)),
        ("r:7", Cursor(7)),
        ("7.end", Cursor(7)),
        ("r:7.end", Cursor(7)),
        ("7.2", Cursor(6, 2)),
        (" 7 ", Cursor(7)),
    ],
)
def test_cursors(text: str, cursor: Cursor):
    assert parse_cursor(text, "r") == cursor


@pytest.mark.parametrize(
    "text", ["", "x", "7.", "-7", "7.-1", "7.0", "0.1", "٣", "other:7", "r:", ":7", "7.end.end", "1" * 16]
)
def test_what_is_no_cursor(text: str):
    with pytest.raises(CursorInvalid):
        parse_cursor(text, "r")


@pytest.mark.parametrize("run_id", ["a:b", "a::b", ":a", "a:", ":", "7", "7:1"])
def test_a_run_id_may_have_colons(run_id: str):
    assert parse_cursor(f"{run_id}:7", run_id) == Cursor(7)
    assert parse_cursor(f"{run_id}:7.2", run_id) == Cursor(6, 2)


def test_an_unknown_wire_says_which_there_are():
    with pytest.raises(InputInvalid, match="ag-ui"):
        wire("nope")


@pytest.mark.parametrize("name", sorted(WIRES))
def test_an_agents_event_that_holds_the_name_of_a_restart_is_none(name: str):
    encoder = wire(name)(RUN)
    event = encode_event(CustomEvent(name="mine", value={"type": "CUSTOM", "name": RESTARTED}))
    assert encoder.sayable([(1, event)]) == [(1, event)]


@pytest.mark.parametrize("name", sorted(WIRES.keys() - {"ag-ui"}))  # whose events are stored as they go out
def test_text_has_no_character_that_a_line_reader_takes_for_a_lines_end(name: str):
    text = "a\u2028b\u2029c\x85d\x0be\x1cf — 🦉\n"
    events = [
        RunStartedEvent(thread_id="s", run_id="r"),
        TextMessageStartEvent(message_id="m", role="assistant"),
        TextMessageContentEvent(message_id="m", delta=text),
    ]
    events.append(RunErrorEvent(message=text))
    body = wire(name)(RUN).encode([(seq, encode_event(event)) for seq, event in enumerate(events, 1)])
    assert body.decode().splitlines() == body.decode().split("\n")[:-1]
    said = [strings(msgspec.json.decode(frame.data)) for frame in frames(body) if frame.data != "[DONE]"]
    assert sum(text in one for one in said) >= 2, said


@pytest.mark.parametrize("name", sorted(WIRES))
def test_a_delta_belongs_to_its_message_whichever_has_begun_last(name: str):
    def said(message_id: str, delta: str) -> TextMessageContentEvent:
        return TextMessageContentEvent(message_id=message_id, delta=delta)

    events: list[Event] = [
        RunStartedEvent(thread_id="s", run_id="r"),
        TextMessageStartEvent(message_id="a", role="assistant"),
        said("a", "one "),
        TextMessageStartEvent(message_id="b", role="assistant"),
        said("a", "two "),
        said("b", "three "),
        TextMessageStartEvent(message_id="u", role="user"),
        said("u", "asked "),
        said("a", "four "),
        said("b", "five "),
    ]
    encoder = wire(name)(RUN)
    bodies = [encoder.encode([(seq, encode_event(event))]).decode() for seq, event in enumerate(events, 1)]
    for body, event in zip(bodies, events, strict=True):
        if isinstance(event, TextMessageContentEvent):
            heard = event.message_id != "u" or name == "ag-ui"
            # Of one text, and where deltas do not name their message: the other one waits for its turn.
            if name in ("openai", "openai-completions", "text", "adk"):
                heard = event.message_id == "a"
            assert (f'"{event.delta}"' in body) == heard, body
    if name in ("ag-ui", "vercel"):  # which name a delta's message
        assert ['"a"' in bodies[n] for n in (2, 4, 5, 8, 9)] == [True, True, False, True, False]
    if name == "openai-responses":
        assert ["msg_a" in bodies[n] for n in (2, 4, 5, 8, 9)] == [True, True, False, True, False]


@pytest.mark.parametrize("name", sorted(WIRES.keys() - {"ag-ui"}))
@pytest.mark.parametrize("roles", [("assistant", "user"), ("user", "assistant")])
def test_an_id_that_is_used_again_is_the_message_of_its_newest_role(name: str, roles: tuple[TextRole, TextRole]):
    events: list[Event] = [RunStartedEvent(thread_id="s", run_id="r")]
    for role in roles:
        events += [
            TextMessageStartEvent(message_id="m", role=role),
            TextMessageContentEvent(message_id="m", delta=f"of the {role}"),
            TextMessageEndEvent(message_id="m"),
        ]
    events.append(RunFinishedEvent(thread_id="s", run_id="r"))
    body = wire(name)(RUN).encode([(seq, encode_event(event)) for seq, event in enumerate(events, 1)]).decode()
    assert "of the assistant" in body
    assert "of the user" not in body
    assert body.count('"text-start"') == body.count('"text-end"')
    assert '"in_progress"' not in body.rpartition("response.completed")[2]


def strings(value: Any) -> str:
    """All strings in a JSON value."""
    if isinstance(value, dict | list):
        return "".join(map(strings, value.values() if isinstance(value, dict) else value))
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize("name", sorted(WIRES))
def test_a_run_begun_anew_is_void_on_the_wires_that_can_say_so_and_an_error_on_the_others(name: str):
    encoder = wire(name)(RUN)
    events = [
        encode_event(event)
        for event in (
            RunStartedEvent(thread_id="s", run_id="r"),
            TextMessageStartEvent(message_id="m", role="assistant"),
            TextMessageContentEvent(message_id="m", delta="void"),
            CustomEvent(name=RESTARTED, value={"restarts": 1}),
            TextMessageStartEvent(message_id="n", role="assistant"),
            TextMessageContentEvent(message_id="n", delta="anew"),
        )
    ]
    body = b"".join(encoder.encode(encoder.sayable([(n, e)])) for n, e in enumerate(events, 1))
    said = " ".join(frame.data for frame in frames(body))
    assert "void" in said
    assert ("anew" in said.replace("began the run anew", "")) == encoder.voids
    if not encoder.voids:
        assert "began the run anew" in said
        resumed = wire(name)(RUN)
        resumed.skip(event for _, event in resumed.sayable([(0, event) for event in events]))
        assert not resumed.sayable([(7, events[5])])


@pytest.mark.parametrize("name", sorted(WIRES))
def test_a_run_begun_anew_goes_on_on_every_wire_where_it_names_what_is_void(name: str):
    encoder = wire(name)(RUN)
    events = [
        encode_event(event)
        for event in (
            RunStartedEvent(thread_id="s", run_id="r"),
            TextMessageStartEvent(message_id="m", role="assistant"),
            TextMessageContentEvent(message_id="m", delta="old"),
            TextMessageEndEvent(message_id="m"),
            CustomEvent(name=RESTARTED, value={"restarts": 1, "messageIds": ["m"], "toolCallIds": []}),
            TextMessageStartEvent(message_id="n", role="assistant"),
            TextMessageContentEvent(message_id="n", delta="anew"),
        )
    ]
    body = b"".join(encoder.encode(encoder.sayable([(n, e)])) for n, e in enumerate(events, 1))
    said = " ".join(frame.data for frame in frames(body))
    assert "anew" in said
    assert "began the run anew" not in said


# -- what a run that goes on takes back -------------------------------------------------------------------------------


def said(id: str, *deltas: str) -> list[Event]:
    contents = [TextMessageContentEvent(message_id=id, delta=delta) for delta in deltas]
    return [TextMessageStartEvent(message_id=id, role="assistant"), *contents, TextMessageEndEvent(message_id=id)]


def thought(id: str, *deltas: str) -> list[Event]:
    contents = [ReasoningMessageContentEvent(message_id=id, delta=delta) for delta in deltas]
    return [ReasoningMessageStartEvent(message_id=id), *contents, ReasoningMessageEndEvent(message_id=id)]


def called(id: str, result: str | None = None, *, message_id: str | None = None) -> list[Event]:
    events: list[Event] = [
        ToolCallStartEvent(tool_call_id=id, tool_call_name="look"),
        ToolCallArgsEvent(tool_call_id=id, delta='{"a":'),
        ToolCallArgsEvent(tool_call_id=id, delta="1}"),
        ToolCallEndEvent(tool_call_id=id),
    ]
    return events if result is None else [*events, resulted(id, result, message_id)]


def resulted(id: str, result: str, message_id: str | None = None) -> Event:
    return ToolCallResultEvent(message_id=message_id or f"{id}-result", tool_call_id=id, content=result)


def lost(void: Void) -> Event:
    return CustomEvent(name=VOID, value=msgspec.to_builtins(void))


def run_of(*events: Event) -> list[bytes]:
    whole = [
        RunStartedEvent(thread_id="s", run_id="r"),
        *events,
        RunFinishedEvent(thread_id="s", run_id="r", outcome=RunFinishedSuccessOutcome()),
    ]
    return [encode_event(event) for event in whole]


LOST = {
    "text": run_of(
        *said("a", "kept ", "text. "),
        *said("b", "lost ", "é", "words"),
        lost(Void(message_ids=["b"], tool_call_ids=[])),
        *said("c", "new ", "words"),
    ),
    "everything, and the same names again": run_of(
        *called("k", "kept"),
        *thought("t", "lost ", "thought"),
        *said("b", "lost ", "words"),
        *called("x", "lost result"),
        *called("y"),
        lost(Void(message_ids=["t", "b", "x-result", "y"], tool_call_ids=["x", "y"])),
        *thought("t", "new ", "thought"),
        *said("b", "new ", "words"),
        *called("x", "new result"),
    ),
    "a cut message": run_of(
        *said("a", "kept ", "🦉 lost ", "words"),
        lost(Void(message_ids=[], tool_call_ids=[], cut={"a": 6})),
        *said("c", "new ", "words"),
    ),
    "a result only": run_of(
        *called("l", "kept"),
        *called("k", "lost result", message_id="m"),
        lost(Void(message_ids=["m"], tool_call_ids=[])),
        resulted("k", "new result", "m"),
        *said("c", "new ", "words"),
    ),
    "twice": run_of(
        *said("a", "kept. "),
        *said("b", "lost ", "words"),
        lost(Void(message_ids=["b"], tool_call_ids=[])),
        *said("b", "lost too"),
        *called("x"),
        lost(Void(message_ids=["b"], tool_call_ids=["x"])),
        *said("c", "new ", "words"),
    ),
}
ENCODERS = {name: wire(name) for name in WIRES} | {"adk whole": WholeADKEncoder}
AGUI_ENCODERS = (ChatAGUIEncoder, SessionAGUIEncoder, OldAGUIEncoder)


def end_state(name: str, sent: list[tuple[str, str]]) -> Any:
    """What a client has in the end of these events of a stream, however its deltas were divided."""
    if name == "ag-ui":
        fold = Fold()
        for _, data in sent:
            fold.add(decode_event(data.encode()))
        return fold.messages()
    state: list[Any] = []
    for event, data in sent:
        if data == "[DONE]":
            state.append(data)
            continue
        chunk = msgspec.json.decode(data)
        chunk.pop("sequence_number", None)
        text, rest = delta_of(name, chunk)
        if text is not None and state and state[-1][:2] == (event, rest):
            state[-1] = (event, rest, state[-1][2] + text)
        else:
            state.append((event, rest, text))
    return state


def delta_of(name: str, chunk: dict[str, Any]) -> tuple[str | None, Any]:
    """A delta's text, and the frame without it."""
    if name == "vercel" and chunk["type"].endswith("-delta"):
        key = "inputTextDelta" if "inputTextDelta" in chunk else "delta"
        return chunk.pop(key), chunk
    if name == "openai-responses" and chunk["type"].endswith(".delta"):
        return chunk.pop("delta"), chunk
    if name == "openai" and "gapless" not in chunk and chunk.get("choices"):
        for key in ("content", "reasoning_content"):
            if chunk["choices"][0]["delta"].get(key):
                return chunk["choices"][0]["delta"].pop(key), (key, chunk)
    if name == "openai-completions" and "gapless" not in chunk and chunk.get("choices"):
        text = chunk["choices"][0].pop("text")
        return text or None, chunk
    if name == "adk" and chunk.get("partial"):
        return chunk["content"]["parts"][0].pop("text"), chunk
    if name == "text" and "text" in chunk:
        return chunk.pop("text"), chunk
    return None, chunk


def sent_by(encoder: Encoder, items: Sequence[tuple[int, bytes]], skip_parts: int = 0) -> list[tuple[str, str, str]]:
    """The (id, event, data) of what goes out, one read after another where the wire is stateful."""
    return [(one.id, one.event, one.data) for one in frames(encoder.encode(encoder.sayable(items), skip_parts))]


@pytest.mark.parametrize("lost_run", sorted(LOST))
@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_what_was_taken_back_is_the_same_live_late_merged_and_from_each_cursor(name: str, lost_run: str):
    events = LOST[lost_run]
    numbered = list(enumerate(events, 1))
    encoder = ENCODERS[name](RUN)
    live = [frame for item in numbered for frame in sent_by(encoder, [item])]
    whole = end_state(name, [frame[1:] for frame in live])
    assert sent_by(ENCODERS[name](RUN), numbered) == live, "late"
    merged = [frame[1:] for frame in sent_by(ENCODERS[name](RUN), merge_deltas(1, events))]
    assert end_state(name, merged) == whole

    for seen, (id, _, _) in enumerate(live, 1):
        cursor = parse_cursor(id, RUN.id)
        rest = ENCODERS[name](RUN)
        rest.skip(events[: cursor.seq])
        heard = [*live[:seen], *sent_by(rest, numbered[cursor.seq :], cursor.part)]
        assert heard == live, f"from {id}"
        again = ENCODERS[name](RUN)
        again.skip(events[: cursor.seq])
        if not cursor.part:
            late = [*live[:seen], *sent_by(again, merge_deltas(cursor.seq + 1, events[cursor.seq :]))]
            assert end_state(name, [frame[1:] for frame in late]) == whole, f"merged from {id}"


@pytest.mark.parametrize("kind", [*ENCODERS.values(), *AGUI_ENCODERS])
def test_an_event_alone_is_encoded_as_it_is_among_others(kind: Callable[[RunRecord], Encoder]):
    failed = ToolCallResultEvent(message_id="f", tool_call_id="x", content="no", role="tool", error="it failed")
    parts = ToolCallResultEvent(message_id="p", tool_call_id="x", content=[TextPart(text="part")], role="tool")
    whole = run_of(*said("b", "some ", "é\u2028words"), *called("x", "result"), failed, parts, lost(Void(["b"], [])))
    for first_seq in (1, 12):
        alone, together = kind(RUN), kind(RUN)
        for seq, event in enumerate(whole, first_seq):
            assert alone.encode_one(seq, event) == together.encode(together.sayable([(seq, event)]))


@pytest.mark.parametrize("kind", [*ENCODERS.values(), *AGUI_ENCODERS])
def test_what_was_stored_in_plain_lines_goes_out_in_plain_lines(kind: Callable[[RunRecord], Encoder]):
    """Also where a wire says it in other words than the journal has: of a call that failed, of a result in parts."""
    text = "a\u2028b\u2029c\x85d"
    failed = ToolCallResultEvent(message_id="f", tool_call_id="x", content=text, role="tool", error=text)
    parts = ToolCallResultEvent(message_id="p", tool_call_id="y", content=[TextPart(text=text)], role="tool")
    both = ToolCallResultEvent(message_id="q", tool_call_id="z", content=[TextPart(text=text)], role="tool", error=text)
    calls = [event for id in "xyz" for event in called(id)]
    stored = [
        with_plain_lines(event)
        for event in run_of(*said("b", text), *calls, failed, parts, both, lost(Void(["b"], [])))
    ]
    encoder, late, alone = kind(RUN), kind(RUN), kind(RUN)
    bodies = [
        encoder.encode(encoder.sayable(list(enumerate(stored, 1)))),
        late.encode(late.sayable(merge_deltas(1, stored))),
    ]
    bodies += [alone.encode_one(seq, event) for seq, event in enumerate(stored, 1)]
    for body in bodies:
        assert body.decode().splitlines() == body.decode().split("\n")[:-1]


@pytest.mark.parametrize("name", sorted(WIRES))
def test_a_run_that_takes_back_what_it_said_says_so_and_goes_on_to_its_end(name: str):
    encoder = wire(name)(RUN)
    body = encoder.encode(encoder.sayable(list(enumerate(LOST["text"], 1)))).decode()
    before, mark, after = re.split(r'("messageIds":\["b"\])', body, maxsplit=1)
    assert "words" in before
    assert mark
    assert "new " in after
    assert "error" not in body.replace('"error":null', "").replace('"type":"error"', "error")


@pytest.mark.parametrize("name", sorted(WIRES))
def test_an_agents_own_event_under_the_name_of_the_void_one_takes_nothing_back(name: str):
    own = CustomEvent(name=VOID, value={"mine": True})
    body = wire(name)(RUN).encode(list(enumerate(run_of(*said("a", "one"), own, *said("b", "two")), 1))).decode()
    assert "one" in body
    assert "two" in body
    assert "messageIds" not in body


@pytest.mark.parametrize("lost_run", sorted(LOST))
def test_a_run_that_is_read_as_a_whole_is_without_what_it_took_back(lost_run: str):
    events = LOST[lost_run]
    kept = [event for _, event in without_void(enumerate(events, 1))]
    assert not re.search("lost", b"".join(kept).decode())
    taken_back, whole = Fold(), Fold()
    for event in events:
        taken_back.add(decode_event(event))
    for event in kept:
        if b'"gapless.void"' not in event:
            whole.add(decode_event(event))
    assert whole.messages() == taken_back.messages()
    merged = [event for _, event in without_void(merge_deltas(1, events))]
    assert [event for _, event in merge_deltas(1, kept)] == [event for _, event in merge_deltas(1, merged)]
