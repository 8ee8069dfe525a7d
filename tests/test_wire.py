"""Cursors, and what every wire does alike."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gapless.errors import CursorInvalid, InputInvalid
from gapless.events import (
    CustomEvent,
    Event,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TextRole,
    encode_event,
)
from gapless.fold import RESTARTED
from gapless.protocols import WIRES
from gapless.records import RunRecord
from gapless.wire import Cursor, parse_cursor, wire
from support.sse import frames

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
