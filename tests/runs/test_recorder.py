"""Whatever an agent yields, the journal holds a legal AG-UI sequence and nothing is lost."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless import Limits
from gapless.errors import AgentInvalid, RunFenced, RunLimit
from gapless.events import (
    CustomEvent,
    Event,
    ReasoningEndEvent,
    ReasoningMessageChunkEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    SubagentErrorEvent,
    SubagentStartedEvent,
    TextMessageChunkEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallChunkEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    decode_event,
    encode_event,
)
from gapless.runs.order import OPEN_MAX
from gapless.runs.recorder import Recorder
from tests.support.agui import check_order


class FakeJournal:
    """Takes what is appended; the recorder needs no more of a journal."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.size_bytes = 0

    @property
    def appended(self) -> int:
        return len(self.written)

    def append(self, event: bytes) -> None:
        self.written.append(event)
        self.size_bytes += len(event)


def record(*items: Any, limits: Limits | None = None) -> tuple[list[Event], Recorder]:
    journal: Any = FakeJournal()
    recorder = Recorder(journal, "r", "s", limits or Limits())
    recorder.start(1)
    for item in items:
        recorder.add(item)
    recorder.close_open()
    events = [decode_event(event) for event in journal.written]
    check_order([*events, RunFinishedEvent(thread_id="s", run_id="r")])
    return events[1:], recorder


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__.removesuffix("Event") for event in events]


def test_text_becomes_one_message():
    events, recorder = record("Hello", " ", "world")
    assert kinds(events) == ["TextMessageStart", *["TextMessageContent"] * 3, "TextMessageEnd"]
    assert recorder.fold.text == "Hello world"


def test_empty_text_opens_nothing():
    assert record("")[0] == []


def test_text_after_a_tool_is_a_new_message():
    events, recorder = record(
        "a", ToolCallStartEvent(tool_call_id="t", tool_call_name="f"), ToolCallEndEvent(tool_call_id="t"), "b"
    )
    ids = [event.message_id for event in events if isinstance(event, TextMessageStartEvent)]
    assert len(set(ids)) == 2
    assert recorder.fold.text == "a\n\nb"


def test_custom_events_stand_within_text():
    events, _ = record("a", CustomEvent(name="n", value=1), "b")
    assert kinds(events) == ["TextMessageStart", "TextMessageContent", "Custom", "TextMessageContent", "TextMessageEnd"]


def test_content_without_start_gets_one():
    events, _ = record(TextMessageContentEvent(message_id="m", delta="x"))
    assert kinds(events) == ["TextMessageStart", "TextMessageContent", "TextMessageEnd"]


def test_reasoning_gets_its_frame():
    events, _ = record(ReasoningMessageContentEvent(message_id="m", delta="x"), "answer")
    assert kinds(events)[:3] == ["ReasoningStart", "ReasoningMessageStart", "ReasoningMessageContent"]


def test_a_reasoning_frame_that_was_added_ends_with_its_message():
    events, _ = record(
        ReasoningMessageStartEvent(message_id="m"),
        ReasoningMessageContentEvent(message_id="m", delta="x"),
        ReasoningMessageEndEvent(message_id="m"),
        "answer",
    )
    assert kinds(events)[3:6] == ["ReasoningMessageEnd", "ReasoningEnd", "TextMessageStart"]


def test_reasoning_is_kept_apart_from_the_text():
    _, recorder = record(
        ReasoningStartEvent(message_id="q"),
        ReasoningMessageStartEvent(message_id="q"),
        ReasoningMessageContentEvent(message_id="q", delta="thinking"),
        ReasoningMessageEndEvent(message_id="q"),
        ReasoningEndEvent(message_id="q"),
        "said",
    )
    assert recorder.fold.text == "said"
    assert [message.content for message in recorder.fold.messages()] == ["thinking", "said"]


def test_chunks_are_expanded():
    events, recorder = record(
        TextMessageChunkEvent(message_id="m", delta="a"),
        TextMessageChunkEvent(delta="b"),
        ToolCallChunkEvent(tool_call_id="t", tool_call_name="f", delta="{"),
        ToolCallChunkEvent(delta="}"),
        ReasoningMessageChunkEvent(message_id="q", delta="hm"),
        TextMessageChunkEvent(message_id="n", delta="c"),
    )
    assert not any("Chunk" in kind for kind in kinds(events))
    assert recorder.fold.text == "ab\n\nc"
    calls = [call for message in recorder.fold.messages() for call in getattr(message, "tool_calls", None) or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("f", "{}")]


@pytest.mark.parametrize(
    "first", [TextMessageChunkEvent(delta="a"), ToolCallChunkEvent(delta="a"), ReasoningMessageChunkEvent(delta="a")]
)
def test_a_first_chunk_needs_its_id(first: Event):
    with pytest.raises(AgentInvalid, match="needs its"):
        record(first)


def test_a_result_ends_its_call():
    events, _ = record(
        ToolCallStartEvent(tool_call_id="t", tool_call_name="f"),
        ToolCallResultEvent(message_id="m", tool_call_id="t", content="ok"),
    )
    assert kinds(events) == ["ToolCallStart", "ToolCallEnd", "ToolCallResult"]


def test_arguments_of_an_unknown_call_are_refused():
    with pytest.raises(AgentInvalid, match="was not started"):
        record(ToolCallArgsEvent(tool_call_id="t", delta="{}"))


def test_all_that_is_open_is_closed_innermost_first():
    events, _ = record(
        StepStartedEvent(step_name="one"),
        SubagentStartedEvent(subagent_run_id="sub", name="helper"),
        TextMessageStartEvent(message_id="m"),
    )
    assert [type(event) for event in events[3:]] == [TextMessageEndEvent, SubagentErrorEvent, StepFinishedEvent]


def test_nothing_starts_or_ends_twice():
    events, _ = record(
        TextMessageStartEvent(message_id="m"),
        TextMessageStartEvent(message_id="m"),
        TextMessageEndEvent(message_id="m"),
        TextMessageEndEvent(message_id="m"),
        StepFinishedEvent(step_name="never"),
    )
    assert kinds(events) == ["TextMessageStart", "TextMessageEnd"]


def test_the_agents_own_frame_is_taken_up_and_not_written():
    events, recorder = record(
        RunStartedEvent(thread_id="x", run_id="y"), "a", RunFinishedEvent(thread_id="x", run_id="y", result=5)
    )
    assert kinds(events) == ["TextMessageStart", "TextMessageContent", "TextMessageEnd"]
    assert recorder.finish is not None
    assert recorder.finish.result == 5
    assert record(RunErrorEvent(message="m", code="c"))[1].failure == RunErrorEvent(message="m", code="c")


@pytest.mark.parametrize("wrong", [5, b"bytes", None, ["a"], object()])
def test_the_wrong_type_is_named(wrong: object):
    with pytest.raises(AgentInvalid, match=f"run r: the agent yielded {type(wrong).__name__}"):
        record(wrong)


def test_what_json_cannot_carry_is_named():
    with pytest.raises(AgentInvalid, match="StateSnapshotEvent cannot be written as JSON"):
        record(StateSnapshotEvent(snapshot=object()))


def test_no_event_has_a_character_that_breaks_a_line():
    """A client that reads a stream by `str.splitlines`, as those on `httpx` do, gets each event whole."""
    text = "a\u2028b\u2029c\x85d é"
    journal: Any = FakeJournal()
    recorder = Recorder(journal, "r", "s", Limits())
    recorder.start(1)
    recorder.add(text)
    recorder.add(CustomEvent(name=text, value=text))
    recorder.close_open()
    assert [len(event.decode().splitlines()) for event in journal.written] == [1] * len(journal.written)
    said = [decode_event(event) for event in journal.written]
    assert [event.delta for event in said if isinstance(event, TextMessageContentEvent)] == [text]
    assert [(event.name, event.value) for event in said if isinstance(event, CustomEvent)] == [(text, text)]


def test_nul_and_surrogates():
    smile = "\U0001f600"
    high, low = "\ud83d", "\ude00"
    assert record("a\x00b")[1].fold.text == "a\x00b"
    assert record("a" + high, low + "b")[1].fold.text == f"a{smile}b"
    assert record("a" + high, "b")[1].fold.text == "a\ufffdb"
    assert record(low + "b")[1].fold.text == "\ufffdb"
    assert record("a" + high)[1].fold.text == "a\ufffd"

    def text(delta: str) -> Event:
        return TextMessageContentEvent(message_id="m", delta=delta)

    def thought(delta: str) -> Event:
        return ReasoningMessageContentEvent(message_id="m", delta=delta)

    def arguments(delta: str) -> Event:
        return ToolCallArgsEvent(tool_call_id="m", delta=delta)

    for say, end in (
        (text, TextMessageEndEvent(message_id="m")),
        (thought, ReasoningMessageEndEvent(message_id="m")),
        (arguments, ToolCallEndEvent(tool_call_id="m")),
    ):
        begin = [ToolCallStartEvent(tool_call_id="m", tool_call_name="f")] if say is arguments else []
        for pieces, whole in (
            (["a" + high, low + "b"], f"a{smile}b"),
            ([high, low], smile),
            (["a" + high, "b" + high], "a\ufffdb\ufffd"),
            ([high, high, low], f"\ufffd{smile}"),
        ):
            events, _ = record(*begin, *map(say, pieces), end)
            deltas = [event for event in events if type(event) is type(say(""))]
            assert "".join(getattr(event, "delta", "") for event in deltas) == whole
    events, _ = record(CustomEvent(name="n", value={"k" + low: [high]}))
    assert events == [CustomEvent(name="n", value={"k\ufffd": ["\ufffd"]})]


@given(text=st.text(st.characters(), max_size=30), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_any_text_cut_anywhere_in_utf16_comes_out_as_if_uncut(text: str, cuts: list[int]):
    """Deltas that were cut between the halves of a pair, as JavaScript models cut them."""
    units = text.encode("utf-16-le", "surrogatepass")
    edges = sorted({0, len(units), *(2 * cut for cut in cuts if 2 * cut < len(units))})
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in itertools.pairwise(edges)]
    assert record(*pieces)[1].fold.text == units.decode("utf-16-le", "replace")


def test_limits_are_named():
    with pytest.raises(RunLimit, match="journal_events_max=5"):
        record(*"abcdefg", limits=Limits(journal_events_max=5))


def _delta(delta: str) -> Event:
    return TextMessageContentEvent(message_id="m", delta=delta)


@given(
    st.lists(
        st.one_of(
            st.text(max_size=60),
            st.text(max_size=60).map(_delta),
            st.integers(1, 500).map(lambda size: CustomEvent(name="n", value="v" * size)),
        ),
        max_size=60,
    ),
    st.integers(1, 12_000),
    st.integers(2, 60),
    st.sampled_from([500, 1_000, 20_000]),
)
def test_a_journal_is_never_over_its_limits_by_more_than_what_came_last(
    items: list[Any], bytes_max: int, events_max: int, event_bytes_max: int
):
    """The short ways do not look each time: not before they could be over. What is set aside counts."""
    journal: Any = FakeJournal()
    limits = Limits(event_bytes_max=event_bytes_max, journal_bytes_max=bytes_max, journal_events_max=events_max)
    recorder = Recorder(journal, "r", "s", limits)
    recorder.start(1)
    for item in items:
        try:
            recorder.add(item)
        except RunLimit:
            break
        assert journal.appended <= events_max
        assert journal.size_bytes <= bytes_max
    else:
        return
    assert journal.appended > events_max or journal.size_bytes > bytes_max or len(encode_event(item)) > event_bytes_max
    with pytest.raises(RunLimit, match="event_bytes_max=100"):
        record(CustomEvent(name="n", value="x" * 200), limits=Limits(event_bytes_max=100))


def test_so_much_may_be_open_at_once_and_no_more():
    steps = [StepStartedEvent(step_name=str(n)) for n in range(OPEN_MAX + 1)]
    assert len(record(*steps[:-1])[0]) == 2 * OPEN_MAX
    with pytest.raises(RunLimit, match=f"more than {OPEN_MAX} "):
        record(*steps)


def test_a_delta_over_the_limit_is_split():
    small = Limits(event_bytes_max=200)
    delta = TextMessageContentEvent(message_id="m", delta="y" * 1000)
    events, recorder = record("x" * 1000, "x" * 1000, delta, limits=small)
    assert recorder.fold.text == "x" * 2000 + "\n\n" + "y" * 1000
    assert all(len(event.delta) <= 200 for event in events if isinstance(event, TextMessageContentEvent))


def test_a_sealed_recorder_takes_nothing():
    _events, recorder = record("a")
    recorder.seal()
    with pytest.raises(RunFenced, match="run r has ended"):
        recorder.add("b")
    assert recorder.fold.text == "a"


def test_a_paused_recorder_takes_nothing_until_it_goes_on():
    _events, recorder = record("a")
    recorder.pause(RunFinishedEvent(thread_id="s", run_id="r"))
    with pytest.raises(AgentInvalid, match="waits for an answer"):
        recorder.add("b")
    recorder.start(2)
    recorder.add("c")
    assert recorder.fold.text == "a\n\nc"


@pytest.mark.parametrize(
    "event",
    [
        TextMessageStartEvent(message_id=5),  # type: ignore[arg-type]
        ReasoningMessageStartEvent(message_id=[]),  # type: ignore[arg-type]
        ToolCallStartEvent(tool_call_id=5, tool_call_name="f"),  # type: ignore[arg-type]
        StepStartedEvent(step_name=["a"]),  # type: ignore[arg-type]
        StepStartedEvent(step_name="x" * 300),
    ],
)
def test_what_is_refused_is_not_left_open(event: Event):
    journal: Any = FakeJournal()
    recorder = Recorder(journal, "r", "s", Limits(event_bytes_max=200))
    recorder.start(1)
    recorder.add("a")
    with pytest.raises((AgentInvalid, RunLimit)):
        recorder.add(event)
    recorder.close_open()
    kinds_written = kinds([decode_event(event) for event in journal.written])
    assert kinds_written == ["RunStarted", "TextMessageStart", "TextMessageContent", "TextMessageEnd"]


def test_what_fits_the_limit_can_be_closed():
    started = StepStartedEvent(step_name="")
    step = "x" * (200 - len(encode_event(started)))
    events, _ = record(StepStartedEvent(step_name=step), limits=Limits(event_bytes_max=200))
    assert events == [StepStartedEvent(step_name=step), StepFinishedEvent(step_name=step)]


@pytest.mark.parametrize(
    "event",
    [
        TextMessageContentEvent(message_id="m", delta=None),  # type: ignore[arg-type]
        TextMessageContentEvent(message_id=5, delta="x"),  # type: ignore[arg-type]
        TextMessageStartEvent(message_id="m", role="bogus"),  # type: ignore[arg-type]
        ToolCallStartEvent(tool_call_id="t", tool_call_name=None),  # type: ignore[arg-type]
        ToolCallResultEvent(message_id="m", tool_call_id="t", content={"a": 1}),  # type: ignore[arg-type]
        StateDeltaEvent(delta=["x"]),  # type: ignore[list-item]
        CustomEvent(name="n", value=object()),
    ],
)
def test_an_event_that_could_not_be_read_again_is_refused(event: Event):
    with pytest.raises(AgentInvalid):
        record(event)


def test_json_that_was_put_in_as_it_was_becomes_one_line():
    events, _ = record(CustomEvent(name="n", value=msgspec.Raw(b'{\n\n"a":\n1}')))
    assert events == [CustomEvent(name="n", value={"a": 1})]


S = {"subagent_run_id": "sub"}


@pytest.mark.parametrize(
    "items",
    [
        [TextMessageContentEvent(message_id="m", delta="x", **S)],
        [TextMessageStartEvent(message_id="m", role="assistant", **S)],
        [TextMessageChunkEvent(message_id="m", delta="x", **S)],
        [ReasoningMessageContentEvent(message_id="m", delta="x", **S)],
        [ReasoningMessageStartEvent(message_id="m", **S)],
        [ReasoningStartEvent(message_id="m", **S)],
        [ReasoningMessageChunkEvent(message_id="m", delta="x", **S)],
        [ToolCallStartEvent(tool_call_id="c", tool_call_name="t", **S)],
        [ToolCallChunkEvent(tool_call_id="c", tool_call_name="t", delta="{}", **S)],
        [StepStartedEvent(step_name="s", **S)],
    ],
)
def test_what_is_added_to_a_subagents_event_is_the_subagents_too(items: list[Event]):
    """AG-UI's own client refuses a stream in which it is not."""
    events, _ = record(SubagentStartedEvent(subagent_run_id="sub", name="n"), *items)
    assert len(events) >= 3
    assert {event.subagent_run_id for event in events} == {"sub"}


@pytest.mark.parametrize("raw", [b' "abc" ', b'"abc","score":1'])
def test_a_delta_is_stored_as_deltas_are_however_it_was_put_in(raw: bytes):
    events, _ = record(TextMessageContentEvent(message_id="m", delta=msgspec.Raw(raw)))
    assert [event.delta for event in events if isinstance(event, TextMessageContentEvent)] == ["abc"]
    journal: Any = FakeJournal()
    recorder = Recorder(journal, "r", "s", Limits())
    recorder.start(1)
    recorder.add(TextMessageContentEvent(message_id="m", delta=msgspec.Raw(raw)))
    assert journal.written[-1] == encode_event(TextMessageContentEvent(message_id="m", delta="abc"))


class _Scored(TextMessageContentEvent, tag="TEXT_MESSAGE_CONTENT", kw_only=True):
    score: float = 0.0


def test_an_agents_own_kind_of_event_is_recorded_as_what_it_is_a_kind_of():
    """Wires know a delta by how its JSON begins and ends."""
    journal: Any = FakeJournal()
    recorder = Recorder(journal, "r", "s", Limits())
    recorder.start(1)
    recorder.add(_Scored(message_id="m", delta="word", score=0.5))
    assert journal.written[-1] == encode_event(TextMessageContentEvent(message_id="m", delta="word"))
    assert kinds(list(map(decode_event, journal.written)))[1:] == ["TextMessageStart", "TextMessageContent"]


@pytest.mark.parametrize("depth", [200, 990, 100_000])
def test_nesting_has_a_bound(depth: int):
    nested: Any = "x"
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(AgentInvalid):
        record(StateSnapshotEvent(snapshot=nested))
    brackets = "[{" * 1000
    assert record(CustomEvent(name="n", value=[brackets, '"' + brackets]))[0], "brackets in text nest nothing"


def test_a_delta_with_too_much_beside_it_is_over_the_limit_and_not_split_for_ever():
    event = TextMessageContentEvent(message_id="m", delta="hi", raw_event="x" * 5000)
    with pytest.raises(RunLimit, match="event_bytes_max=1000"):
        record(event, limits=Limits(event_bytes_max=1000))


_ids = st.sampled_from(["1", "2"])
_event = st.one_of(
    st.text(max_size=3),
    st.builds(lambda i: TextMessageStartEvent(message_id=i), _ids),
    st.builds(lambda i: TextMessageContentEvent(message_id=i, delta="t"), _ids),
    st.builds(lambda i: TextMessageEndEvent(message_id=i), _ids),
    st.builds(lambda i: ReasoningMessageStartEvent(message_id="q" + i), _ids),
    st.builds(lambda i: ReasoningMessageContentEvent(message_id="q" + i, delta="r"), _ids),
    st.builds(lambda i: ReasoningMessageEndEvent(message_id="q" + i), _ids),
    st.builds(lambda i: ReasoningEndEvent(message_id="q" + i), _ids),
    st.builds(lambda i: ToolCallStartEvent(tool_call_id="c" + i, tool_call_name="f"), _ids),
    st.builds(lambda i: ToolCallEndEvent(tool_call_id="c" + i), _ids),
    st.builds(lambda i: ToolCallResultEvent(message_id="m" + i, tool_call_id="c" + i, content="ok"), _ids),
    st.builds(lambda i: TextMessageChunkEvent(message_id="k" + i, delta="k"), _ids),
    st.builds(lambda i: ToolCallChunkEvent(tool_call_id="d" + i, tool_call_name="g", delta="1"), _ids),
    st.builds(lambda i: StepStartedEvent(step_name=i), _ids),
    st.builds(lambda i: StepFinishedEvent(step_name=i), _ids),
    st.just(CustomEvent(name="n", value=None)),
)


@given(st.lists(_event, max_size=12))
def test_any_sequence_becomes_a_legal_one(items: list[Any]):
    record(*items)  # checks the order


_unstarted = st.builds(lambda i: ToolCallArgsEvent(tool_call_id="c" + i, delta="{}"), _ids)
_nameless = st.builds(lambda i: ToolCallChunkEvent(tool_call_id="e" + i, delta="{}"), _ids)
_long = st.just(CustomEvent(name="n", value="x" * 300))
_broken = st.text(st.sampled_from(["\ud83d", "\ude00", "a"]), max_size=3)


@given(st.lists(st.lists(_event | _broken | _unstarted | _nameless | _long, max_size=4), max_size=6))
def test_what_a_trial_takes_is_recorded_and_what_it_refuses_is_not(batches: list[list[Any]]):
    journal: Any = FakeJournal()
    limits = Limits(event_bytes_max=250, journal_events_max=30)
    recorder = Recorder(journal, "r", "s", limits)
    recorder.start(1)
    for batch in batches:
        before, told = len(journal.written), None
        trial = recorder.trial()
        try:
            for item in batch:
                trial.add(item)
        except (AgentInvalid, RunLimit) as error:
            told = str(error)
        assert len(journal.written) == before
        if told is None:
            for item in batch:
                recorder.add(item)
        else:
            again = recorder.trial()
            with pytest.raises((AgentInvalid, RunLimit)) as raised:
                for item in batch:
                    again.add(item)
            assert str(raised.value) == told, "it was left as it was"
    recorder.close_open()
    events = [decode_event(event) for event in journal.written]
    check_order([*events, RunFinishedEvent(thread_id="s", run_id="r")])


@pytest.mark.parametrize("kind", ["text", "reasoning", "arguments"])
def test_the_words_of_a_long_message_are_not_kept_one_by_one(kind: str) -> None:
    """By the short way, for each kind of delta that it takes."""
    words = [f"{number} " for number in range(5_000)]
    match kind:
        case "text":
            items: list[Any] = list(words)
        case "reasoning":
            items = [ReasoningMessageContentEvent(message_id="m", delta=word) for word in words]
        case _:
            start = ToolCallStartEvent(tool_call_id="c", tool_call_name="f")
            items = [start, *(ToolCallArgsEvent(tool_call_id="c", delta=word) for word in words)]
    _, recorder = record(*items)
    fold = recorder.fold
    kept = [one.parts for known in (fold._texts, fold._thoughts, fold._calls) for one in known.values()]
    assert "".join(words) in map("".join, kept)
    assert sum(map(len, kept)) < len(words) / 10
