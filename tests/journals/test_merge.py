"""Merging changes how many events there are, and nothing that they say."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gapless.events import (
    CustomEvent,
    Event,
    ReasoningMessageContentEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    ToolCallArgsEvent,
    decode_event,
    encode_event,
)
from gapless.journals.merge import MERGED_BYTES_MAX, merge_deltas

_nasty = st.sampled_from(
    [
        '","delta":"',
        '"}',
        "\\",
        '\\"',
        "\x00",
        "\n",
        "\u2028",
        "é👩🏽‍🚀",
        ',"delta":"x"}',
        '{"type":"TEXT_MESSAGE_CONTENT"',
    ]
)
_texts = st.one_of(st.text(), _nasty, st.lists(_nasty).map("".join))
_ids = st.one_of(st.sampled_from(["m1", "m2", '","delta":"']), st.text(max_size=3))
_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), _texts),
    lambda inner: st.dictionaries(st.one_of(st.just("delta"), _texts), inner, max_size=2),
    max_leaves=3,
)
_shared = {
    "timestamp": st.one_of(st.none(), st.integers(1, 2)),
    "raw_event": st.one_of(st.none(), _values),
}
_events = st.one_of(
    st.builds(TextMessageContentEvent, message_id=_ids, delta=_texts, **_shared),
    st.builds(ReasoningMessageContentEvent, message_id=_ids, delta=_texts, **_shared),
    st.builds(ToolCallArgsEvent, tool_call_id=_ids, delta=_texts, **_shared),
    st.builds(TextMessageEndEvent, message_id=_ids),
    st.builds(CustomEvent, name=st.sampled_from(["a", "b"]), value=_values),
)
_DELTAS = (TextMessageContentEvent, ReasoningMessageContentEvent, ToolCallArgsEvent)


def fold(events: list[Event]) -> list[Event]:
    """The same by definition: decoded, adjacent deltas that differ in nothing but their text joined."""
    folded: list[Event] = []
    for event in events:
        last = folded[-1] if folded else None
        if isinstance(event, _DELTAS) and type(last) is type(event):
            joined = decode_event(encode_event(event))
            joined.delta = last.delta
            if encode_event(joined) == encode_event(last):  # not ==, for which 1 is True
                last.delta += event.delta
                continue
        folded.append(event)
    return folded


@given(st.lists(_events, max_size=30), st.integers(1, 10_000))
def test_merged_says_what_unmerged_says(events: list[Event], first_seq: int) -> None:
    stored = [encode_event(event) for event in events]
    merged = merge_deltas(first_seq, stored)
    assert [decode_event(data) for _, data in merged] == fold([decode_event(data) for data in stored])
    assert [encode_event(decode_event(data)) for _, data in merged] == [data for _, data in merged]
    positions = [seq for seq, _ in merged]
    assert positions == sorted(set(positions))
    assert positions[-1:] == [first_seq + len(events) - 1][: len(events)]


@given(st.lists(_events, max_size=20), st.data())
def test_merging_in_parts_says_the_same(events: list[Event], data: st.DataObject) -> None:
    """A follower that stops at a merged event's position and goes on from there misses nothing and repeats nothing."""
    stored = [encode_event(event) for event in events]
    seen: list[Event] = []
    after = 0
    while after < len(stored):
        page = merge_deltas(after + 1, stored[after : after + data.draw(st.integers(1, 5))])
        page = page[: data.draw(st.integers(1, len(page)))]
        seen += [decode_event(event) for _, event in page]
        after = page[-1][0]
    assert fold(seen) == fold([decode_event(event) for event in stored])


def test_nothing_merges_to_nothing() -> None:
    assert merge_deltas(1, []) == []


def test_a_long_answer_becomes_few_events() -> None:
    stored = [encode_event(TextMessageContentEvent(message_id="m", delta="abcd")) for _ in range(1000)]
    assert merge_deltas(1, stored) == [
        (1000, encode_event(TextMessageContentEvent(message_id="m", delta="abcd" * 1000)))
    ]


def test_a_merged_event_stops_growing() -> None:
    stored = [encode_event(TextMessageContentEvent(message_id="m", delta="x" * 1000)) for _ in range(1000)]
    merged = merge_deltas(1, stored)
    assert all(len(event) < MERGED_BYTES_MAX + 2000 for _, event in merged)
    assert len(merged) < 20
    deltas = (msgspec.json.decode(event, type=TextMessageContentEvent).delta for _, event in merged)
    assert "".join(deltas) == "x" * 1_000_000
