"""What happened in a run: of its events and the times of its groups."""

from __future__ import annotations

import pytest

from gapless import timeline as module
from gapless.events import (
    Event,
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageStartEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    StepStartedEvent,
    SubagentErrorEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.moves import HANDED_OVER, PARKED, TAKEN_OVER, Move, Moves
from gapless.timeline import Clock, Entry, TimelineMaker, timeline


def test_an_event_has_the_time_of_the_last_group_before_it_that_has_one() -> None:
    clock = Clock([(3, 100), (7, 50)])
    assert [clock.at(seq) for seq in (1, 2, 3, 6, 7, 99)] == [None, None, 100, 100, 50, 50]


def test_waiting_sub_agents_steps_and_thoughts_are_entries_with_times() -> None:
    asked = RunFinishedInterruptOutcome(interrupts=[Interrupt(id="i", reason="question", message="May I?")])
    events: list[Event] = [
        RunStartedEvent(thread_id="t", run_id="r"),
        StepStartedEvent(step_name="plan"),
        SubagentStartedEvent(name="helper", subagent_run_id="h"),
        ReasoningMessageStartEvent(message_id="m"),
        ReasoningMessageContentEvent(message_id="m", delta="hm"),
        RunFinishedEvent(thread_id="t", run_id="r", outcome=asked),
        RunStartedEvent(thread_id="t", run_id="r"),
    ]
    made = timeline(list(enumerate(events, 1)), [(1, 10), (4, 20), (5, 30), (7, 60_000)])
    assert [(it.what, it.name, it.text, it.at, it.ended_at) for it in made.entries] == [
        ("starts", "", "", 10, 10),
        ("step", "plan", "", 10, 10),
        ("sub-agent", "helper", "", 10, 10),
        ("thinks", "", "hm", 20, 30),
        ("waits", "", "May I?", 30, 30),
        ("goes on", "", "", 60_000, 60_000),
    ]
    assert made.first_token_at == 30


def test_a_result_names_its_call_and_one_without_a_call_itself() -> None:
    events: list[Event] = [
        ToolCallStartEvent(tool_call_id="c", tool_call_name="find"),
        ToolCallResultEvent(message_id="r", tool_call_id="c", content="found"),
        ToolCallResultEvent(message_id="r2", tool_call_id="unknown", content="found"),
    ]
    _, known, unknown = timeline(enumerate(events, 1)).entries
    assert (known.name, known.of, known.at) == ("find", 1, None)
    assert (unknown.name, unknown.of) == ("unknown", None)


def test_a_sub_agent_lasts_until_its_end_and_its_failure_is_an_error_of_its_name() -> None:
    events: list[Event] = [
        SubagentStartedEvent(name="reader", subagent_run_id="a", description="Reads"),
        SubagentStartedEvent(name="writer", subagent_run_id="b"),
        SubagentFinishedEvent(subagent_run_id="a"),
        SubagentErrorEvent(subagent_run_id="b", code="no_pen", message="It has no pen"),
        SubagentErrorEvent(subagent_run_id="unknown", message="lost"),
    ]
    made = timeline(enumerate(events, 1), [(1, 10), (3, 30), (4, 40)])
    assert [(it.what, it.name, it.text, it.of, it.at, it.ended_at) for it in made.entries] == [
        ("sub-agent", "reader", "Reads", None, 10, 30),
        ("sub-agent", "writer", "", None, 10, 40),
        ("error", "writer", "no_pen: It has no pen", 2, 40, 40),
        ("error", "unknown", "lost", None, 40, 40),
    ]


def test_what_a_sub_agent_does_is_within_it() -> None:
    events: list[Event] = [
        SubagentStartedEvent(name="outer", subagent_run_id="a"),
        TextMessageStartEvent(message_id="m", subagent_run_id="a"),
        SubagentStartedEvent(name="inner", subagent_run_id="b", parent_subagent_run_id="a"),
        ToolCallStartEvent(tool_call_id="c", tool_call_name="find", subagent_run_id="b"),
        ToolCallResultEvent(message_id="r", tool_call_id="c", content="found", subagent_run_id="b"),
        SubagentErrorEvent(subagent_run_id="b", message="lost"),
        StepStartedEvent(step_name="s"),
    ]
    made = timeline(enumerate(events, 1))
    assert [(it.what, it.within) for it in made.entries] == [
        ("sub-agent", None),
        ("says", 1),
        ("sub-agent", 1),
        ("calls", 3),
        ("result", 3),
        ("error", 1),
        ("step", None),
    ]


def test_the_time_that_people_took_before_the_first_token_is_told() -> None:
    asked = RunFinishedInterruptOutcome(interrupts=[Interrupt(id="i", reason="question", message="May I?")])
    waits = [RunFinishedEvent(thread_id="t", run_id="r", outcome=asked), RunStartedEvent(thread_id="t", run_id="r")]
    events: list[Event] = [
        RunStartedEvent(thread_id="t", run_id="r"),
        *waits,
        *waits,
        TextMessageContentEvent(message_id="m", delta="now"),
        *waits,
    ]
    times = list(zip(range(1, 9), (0, 100, 5_100, 5_200, 6_200, 6_300, 7_000, 9_000), strict=True))
    made = timeline(enumerate(events, 1), times)
    assert (made.first_token_at, made.waited_ms) == (6_300, 6_000)


def test_a_timeline_that_is_made_bit_by_bit_is_the_same_and_tells_what_has_changed() -> None:
    events: list[Event] = [
        RunStartedEvent(thread_id="t", run_id="r"),
        TextMessageStartEvent(message_id="m"),
        TextMessageContentEvent(message_id="m", delta="One "),
        SubagentStartedEvent(name="helper", subagent_run_id="h"),
        TextMessageContentEvent(message_id="m", delta="two"),
        SubagentFinishedEvent(subagent_run_id="h"),
    ]
    times = [(n, 10 * n) for n in range(1, 7)]
    whole = timeline(enumerate(events, 1), times)
    maker, shown, after = TimelineMaker(), dict[int, Entry](), 0
    for n, event in enumerate(events, 1):
        maker.clock.learn(times[n - 1 : n])
        maker.extend([(n, event)])
        part = maker.timeline(after)
        assert all(entry.last_seq > after for entry in part.entries)
        assert part.entries
        shown |= {entry.seq: entry for entry in part.entries}
        after = part.last_seq
    assert list(shown.values()) == whole.entries == maker.timeline().entries
    assert [entry.text for entry in whole.entries] == ["", "One two", ""]
    assert maker.timeline(after).entries == []


def test_what_is_long_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXT_CHARS_MAX", 5)
    monkeypatch.setattr(module, "ENTRIES_MAX", 2)
    events: list[Event] = [
        TextMessageStartEvent(message_id="m"),
        TextMessageContentEvent(message_id="m", delta="0123456789"),
        StepStartedEvent(step_name="s"),
        StepStartedEvent(step_name="beyond"),
    ]
    made = timeline(enumerate(events, 1))
    assert made.cut
    assert [(it.what, it.text, it.cut) for it in made.entries] == [("says", "01234", True), ("step", "", False)]
    assert not timeline(enumerate(events[:3], 1)).cut


def test_moves_stand_behind_what_began_before_them_and_those_behind_its_end_come_later() -> None:
    events: list[Event] = [
        RunStartedEvent(thread_id="t", run_id="r"),
        TextMessageStartEvent(message_id="m"),
        TextMessageContentEvent(message_id="m", delta="One"),
        StepStartedEvent(step_name="s"),
    ]
    kept = Moves([Move(seq=seq, what=TAKEN_OVER, at=seq, from_worker="a", to_worker="b") for seq in (0, 3, 4, 5)])
    made = timeline(enumerate(events, 1)).moved(kept, "b")
    assert [(it.what, it.seq) for it in made.in_order()] == [
        ("taken over", 0),
        ("starts", 1),
        ("says", 2),
        ("taken over", 3),
        ("step", 4),
        ("taken over", 4),
    ]
    assert made.worker == "a", "who had it first"
    assert timeline(enumerate(events, 1)).moved(Moves(), "b").worker == "b", "and still has"
    assert timeline(enumerate(events, 1)).moved(Moves(kept.moves, 7), "b").worker == "", "it is left out"


def test_users_are_told_of_no_worker_and_not_that_none_had_a_run_that_waited() -> None:
    moves = [Move.now(1, TAKEN_OVER, "a", "b"), Move.now(1, PARKED, "b", "c"), Move.now(1, HANDED_OVER, "c")]
    made = timeline([(1, RunStartedEvent(thread_id="t", run_id="r"))]).moved(Moves(moves, 3), "")
    told = made.without_workers()
    assert (told.worker, told.moves_left_out, told.entries) == ("", 3, made.entries)
    assert [(it.what, it.seq, it.at, it.ended_at, it.from_worker, it.to_worker) for it in told.moves] == [
        (it.what, it.seq, it.at, it.ended_at, "", "") for it in (moves[0], moves[2])
    ]
    assert made.moves == moves
