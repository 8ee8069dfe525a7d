"""Folding: any stream, whole or partial, to its messages."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gapless.events import (
    ActivityDeltaEvent,
    ActivityMessage,
    ActivitySnapshotEvent,
    AssistantMessage,
    CustomEvent,
    Event,
    Interrupt,
    ReasoningEncryptedValueEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ResumeEntry,
    RunAgentInput,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
)
from gapless.fold import COPIED_BYTES_MAX, GATHERED_MIN, VOID, Fold, Parts, Void


def folded(*events: Event) -> Fold:
    fold = Fold()
    for event in events:
        fold.add(event)
    return fold


def text(id: str, *deltas: str, role: str = "assistant", end: bool = True) -> list[Event]:
    start = TextMessageStartEvent(message_id=id, role=role)  # type: ignore[arg-type]
    deltas_ = [TextMessageContentEvent(message_id=id, delta=delta) for delta in deltas]
    return [start, *deltas_, *([TextMessageEndEvent(message_id=id)] if end else [])]


def test_order_of_mixed_content_is_kept():
    fold = folded(
        ReasoningMessageStartEvent(message_id="q"),
        ReasoningMessageContentEvent(message_id="q", delta="hm"),
        ReasoningMessageEndEvent(message_id="q"),
        *text("a", "one ", "two"),
        ToolCallStartEvent(tool_call_id="t", tool_call_name="f"),
        ToolCallArgsEvent(tool_call_id="t", delta='{"x":'),
        ToolCallArgsEvent(tool_call_id="t", delta="1}"),
        ToolCallEndEvent(tool_call_id="t"),
        ToolCallResultEvent(message_id="r", tool_call_id="t", content="ok"),
        *text("b", " three"),
    )
    reasoning, first, result, second = fold.messages()
    assert (reasoning.content, first.content, second.content) == ("hm", "one two", " three")
    assert isinstance(first, AssistantMessage)
    assert first.tool_calls is not None
    assert (first.tool_calls[0].id, first.tool_calls[0].function.arguments) == ("t", '{"x":1}')
    assert isinstance(result, ToolMessage)
    assert fold.text == "one two\n\n three"


def test_what_has_the_id_of_another_kind_is_not_taken_for_it():
    fold = folded(
        *text("m", "before"),
        *call("a"),
        ToolCallResultEvent(message_id="ra", tool_call_id="a", content="1"),
        *call("x"),
        ToolCallResultEvent(message_id="rx", tool_call_id="x", content="2"),
        *call("m"),  # a text of this name came before,
        ToolCallResultEvent(message_id="rm", tool_call_id="m", content="3"),
        *text("x", "after"),  # and a call of this one
        ReasoningMessageStartEvent(message_id="x"),
        ReasoningMessageContentEvent(message_id="x", delta="hm"),
        ReasoningMessageEndEvent(message_id="x"),
        ToolCallStartEvent(tool_call_id="y", tool_call_name="f", parent_message_id="x"),
    )
    assert [(one.id, one.content) for one in fold.messages()] == [
        ("m", "before"),
        ("ra", "1"),
        ("x-call", None),
        ("rx", "2"),
        ("m-call", None),
        ("rm", "3"),
        ("x", "after"),
        ("x", "hm"),
    ]
    calls = [[one.id for one in m.tool_calls or ()] for m in fold.messages() if isinstance(m, AssistantMessage)]
    assert calls == [["a"], ["x"], ["m"], ["y"]]
    assert fold.text == "before\n\nafter"
    fold.add(voided(fold))
    assert fold.messages() == []


def test_a_call_without_text_has_a_message_of_its_own():
    fold = folded(
        ToolCallStartEvent(tool_call_id="t", tool_call_name="f", parent_message_id="p"),
        ToolCallStartEvent(tool_call_id="u", tool_call_name="g", parent_message_id="p"),
    )
    (message,) = fold.messages()
    assert isinstance(message, AssistantMessage)
    assert (message.id, message.content) == ("p", None)
    assert [call.id for call in message.tool_calls or ()] == ["t", "u"]


def test_users_text_is_not_the_answer():
    fold = folded(*text("u", "question", role="user"), *text("a", "answer"))
    assert fold.text == "answer"
    assert [m.content for m in fold.messages()] == ["question", "answer"]


def test_what_was_open_is_marked():
    fold = folded(*text("a", "done"), *text("b", "cut", end=False))
    done, cut = fold.messages(metadata={"run_id": "r"}, interrupted={"code": "c", "message": "m"})
    assert done.metadata == {"run_id": "r"}
    assert cut.metadata == {"run_id": "r", "interrupted": True, "error": {"code": "c", "message": "m"}}


def test_what_a_person_said_no_to_is_marked():
    asked = [
        Interrupt(id="i1", reason="tool_call", tool_call_id="t"),
        Interrupt(id="i2", reason="tool_call", tool_call_id="u"),
        Interrupt(id="i3", reason="tool_call", tool_call_id="v", metadata={"kind": "external"}),
    ]
    answers = [
        ResumeEntry(interrupt_id="i1", status="resolved", payload={"approved": False}),
        ResumeEntry(interrupt_id="i2", status="resolved", payload={"approved": True}),
        ResumeEntry(interrupt_id="i3", status="cancelled", payload={"error": "sold out"}),
    ]
    fold = folded(
        *(ToolCallStartEvent(tool_call_id=id, tool_call_name="f", parent_message_id="p") for id in "tuv"),
        RunFinishedEvent(thread_id="s", run_id="r", outcome=RunFinishedInterruptOutcome(interrupts=asked)),
        RunStartedEvent(
            thread_id="s", run_id="r", input=RunAgentInput(thread_id="s", run_id="r", messages=[], resume=answers)
        ),
        *(ToolCallResultEvent(message_id=f"m{id}", tool_call_id=id, content="") for id in "tuv"),
    )
    results = [message for message in fold.messages(metadata={"run_id": "r"}) if isinstance(message, ToolMessage)]
    assert [result.metadata for result in results] == [
        {"run_id": "r", "denied": True},
        {"run_id": "r"},
        {"run_id": "r"},
    ]


def test_where_nothing_was_open_the_last_answer_is_marked_or_an_empty_one_added():
    (marked,) = folded(*text("a", "done")).messages(interrupted={"code": "c"})
    assert marked.metadata == {"interrupted": True, "error": {"code": "c"}}
    (added,) = folded().messages(interrupted={"code": "c"})
    assert (added.content, added.metadata) == ("", {"interrupted": True, "error": {"code": "c"}})


def test_state_and_activities_follow_their_patches():
    fold = folded(
        StateSnapshotEvent(snapshot={"a": 1}),
        StateDeltaEvent(delta=[{"op": "add", "path": "/b", "value": None}, {"op": "remove", "path": "/a"}]),
        StateDeltaEvent(delta=[{"op": "remove", "path": "/nowhere"}]),
        ActivitySnapshotEvent(message_id="x", activity_type="plan", content={"steps": []}),
        ActivityDeltaEvent(
            message_id="x", activity_type="plan", patch=[{"op": "add", "path": "/steps/-", "value": "go"}]
        ),
    )
    assert fold.state == {"b": None}
    (activity,) = fold.messages()
    assert isinstance(activity, ActivityMessage)
    assert activity.content == {"steps": ["go"]}


def test_patches_change_the_folds_own_copy_wholly_or_not_at_all():
    fold, snapshot = Fold(), {"a": [1]}
    add = {"op": "add", "path": "/a/-", "value": 2}
    for snapshot_of in (StateSnapshotEvent(snapshot=snapshot), StateSnapshotEvent(snapshot=snapshot)):
        fold.add(snapshot_of)
        fold.add(StateDeltaEvent(delta=[add]))
        before = fold.state
        fold.add(StateDeltaEvent(delta=[add, {"op": "remove", "path": "/nowhere"}]))
        assert fold.state == {"a": [1, 2]}
        fold.add(StateDeltaEvent(delta=[add]))
        assert fold.state is before  # a small patch must not cost what a large state does
        assert fold.state == {"a": [1, 2, 2]}
        assert snapshot == {"a": [1]}


def test_a_patch_that_doubles_the_state_over_and_over_stops_at_a_bound():
    fold = folded(StateSnapshotEvent(snapshot={"a": ["x" * 1000]}))
    for n in range(60):
        fold.add(StateDeltaEvent(delta=[{"op": "copy", "from": "", "path": f"/{n}"}]))
    assert len(msgspec.json.encode(fold.state)) <= COPIED_BYTES_MAX
    for strange in ({"op": "nonsense"}, {"path": 5}, {"op": "add", "path": None, "value": 1}):
        fold.add(StateDeltaEvent(delta=[strange]))


def test_encrypted_values_go_with_what_they_belong_to():
    fold = folded(
        ReasoningMessageStartEvent(message_id="q"),
        ReasoningEncryptedValueEvent(subtype="message", entity_id="q", encrypted_value="s1"),
        ToolCallStartEvent(tool_call_id="t", tool_call_name="f"),
        ReasoningEncryptedValueEvent(subtype="tool-call", entity_id="t", encrypted_value="s2"),
    )
    reasoning, call = fold.messages()
    assert reasoning.encrypted_value == "s1"  # type: ignore[union-attr]
    assert call.tool_calls[0].encrypted_value == "s2"  # type: ignore[union-attr,index]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=3)), max_size=20), st.integers(0, 25))
def test_any_prefix_can_be_read_and_reading_changes_nothing(deltas: list[tuple[str, str]], cut: int):
    events: list[Event] = [e for id in "ab" for e in text(id, end=False)]
    events += [TextMessageContentEvent(message_id=id, delta=delta) for id, delta in deltas]
    fold = Fold()
    for position, event in enumerate(events):
        fold.add(event)
        if position == cut:
            fold.messages(metadata={"x": 1}, interrupted={})
            assert fold.text is not None
    assert fold.messages() == folded(*events).messages()
    said = ["".join(delta for id, delta in deltas if id == one) for one in "ab"]
    assert sorted(fold.text) == sorted("\n\n".join(filter(None, said)))


def call(id: str, *, end: bool = True) -> list[Event]:
    start = [ToolCallStartEvent(tool_call_id=id, tool_call_name="look"), ToolCallArgsEvent(tool_call_id=id, delta="{}")]
    return [*start, *([ToolCallEndEvent(tool_call_id=id)] if end else [])]


def voided(fold: Fold) -> CustomEvent:
    """What takes back what came after the mark, as it is read from a journal."""
    return CustomEvent(name=VOID, value=msgspec.json.decode(msgspec.json.encode(fold.since_mark())))


BEFORE: list[Event] = [
    *text("a", "Let me ", "see."),
    *call("c1"),
    ToolCallResultEvent(message_id="t1", tool_call_id="c1", content="seen"),
    ActivitySnapshotEvent(message_id="plan", activity_type="plan", content={"steps": ["one"]}),
    StateSnapshotEvent(snapshot={"n": 1}),
    *text("open", "It is 👩🏽‍🚀 ", end=False),
]
AFTER: list[Event] = [
    TextMessageContentEvent(message_id="open", delta="void"),
    TextMessageEndEvent(message_id="open"),
    *text("b", "all of it"),
    *call("c2"),
    ToolCallResultEvent(message_id="t2", tool_call_id="c2", content="void"),
    ActivityDeltaEvent(
        message_id="plan", activity_type="plan", patch=[{"op": "add", "path": "/steps/-", "value": "x"}]
    ),
    ActivitySnapshotEvent(message_id="late", activity_type="plan", content={}),
    StateDeltaEvent(delta=[{"op": "replace", "path": "/n", "value": 2}]),
]


def test_what_came_after_a_mark_is_named():
    fold = folded(*BEFORE)
    fold.mark()
    assert not fold.since_mark()
    for event in AFTER:
        fold.add(event)
    assert fold.since_mark() == Void(
        message_ids=["b", "t2", "late"], tool_call_ids=["c2"], cut={"open": len("It is 👩🏽‍🚀 ")}
    )
    assert fold.marked_state == {"n": 1}
    assert [activity.content for activity in fold.changed_activities] == [{"steps": ["one"]}]


def test_what_is_named_is_taken_back_by_every_fold_alike():
    fold = folded(*BEFORE)
    fold.mark()
    for event in AFTER:
        fold.add(event)
    void = voided(fold)
    restored: list[Event] = [
        ActivitySnapshotEvent(message_id="plan", activity_type="plan", content={"steps": ["one"]}, replace=True),
        StateSnapshotEvent(snapshot={"n": 1}),
    ]
    for event in (void, *restored, *text("b", "said again")):
        fold.add(event)
    late = folded(*BEFORE, *AFTER, void, *restored, *text("b", "said again"))
    kept = folded(*BEFORE, TextMessageEndEvent(message_id="open"), *text("b", "said again"))
    assert fold.messages() == late.messages() == kept.messages()
    assert fold.text == "Let me see.\n\nIt is 👩🏽‍🚀 \n\nsaid again"
    assert fold.state == late.state == {"n": 1}


def test_a_call_that_was_not_whole_at_the_mark_is_void():
    fold = folded(*text("a", "x"), *call("half", end=False))
    fold.mark()
    fold.add(ToolCallEndEvent(tool_call_id="half"))
    assert fold.since_mark() == Void(message_ids=[], tool_call_ids=["half"])
    fold.add(voided(fold))
    (message,) = fold.messages()
    assert isinstance(message, AssistantMessage)
    assert message.tool_calls is None


def test_a_void_that_is_none_or_names_the_unknown_changes_nothing():
    events = text("a", "x")
    for value in (
        None,
        "gapless",
        {},
        {"messageIds": [1], "toolCallIds": []},
        {"messageIds": ["?"], "toolCallIds": ["?"]},
    ):
        assert folded(*events, CustomEvent(name=VOID, value=value)).messages() == folded(*events).messages()


def test_without_a_mark_all_is_void():
    fold = folded(*BEFORE)
    fold.add(voided(fold))
    assert fold.messages() == []


def test_a_file_of_the_answer_stays_in_the_sessions_messages():
    fold = Fold()
    value = {"mimeType": "image/png", "blob": "ab", "url": "/runs/r/blobs/ab"}
    fold.add(RunStartedEvent(thread_id="s", run_id="r"))
    fold.add(CustomEvent(name="gapless.file", value=value))
    fold.mark()
    fold.add(CustomEvent(name="gapless.file", value=value | {"blob": "cd"}))
    first, second = fold.messages()
    assert isinstance(first, ActivityMessage)
    assert (first.id, first.content) == ("r-file-1", value)
    fold.take_back(fold.since_mark())
    assert [message.id for message in fold.messages()] == ["r-file-1"]
    assert second.id == "r-file-2"


@given(st.lists(st.one_of(st.text(max_size=3), st.integers(0, 400), st.just("cut"))))
def test_pieces_that_are_gathered_are_the_same_text(steps: list[str | int]) -> None:
    """Numbers are so many pieces, behind which they are gathered; now and then the text is cut to its half."""
    parts, said = Parts(), ""
    for step in steps:
        if isinstance(step, int):
            pieces = [f"{number} " for number in range(step)]
            parts += pieces
            said += "".join(pieces)
            parts.gather()
        elif step == "cut":
            said = said[: len(said) // 2]
            parts[:] = [said]
        else:
            parts.append(step)
            said += step
        assert "".join(parts) == said


def test_of_many_pieces_few_are_left():
    parts = Parts()
    for number in range(100 * GATHERED_MIN):
        parts.append(f"{number} ")
        parts.gather()
    assert len(parts) < 100 + GATHERED_MIN
    assert "".join(parts).split() == [str(number) for number in range(100 * GATHERED_MIN)]
