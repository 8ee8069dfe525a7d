"""The short way of deltas: what is recorded is what the long way records, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless import Limits
from gapless.events import (
    CustomEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
)
from gapless.fold import Fold
from gapless.runs.deltas import DeltasOf
from gapless.runs.recorder import Recorder

PUT = object()
"""Stands for what the run itself says, which ends what is open."""
IDS = ["m", "c", "d\u2028"]


class FakeJournal:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.size_bytes = 0
        self.append = self.written.append

    @property
    def appended(self) -> int:
        return len(self.written)


def recorded(items: list[Any], limits: Limits) -> tuple[list[bytes], Fold, str]:
    journal: Any = FakeJournal()
    recorder = Recorder(journal, "r", "s", limits)
    recorder.start(1)
    refused = ""
    for item in items:
        try:
            if item is PUT:
                recorder.put(CustomEvent(name="said", value="by the run itself"))
            else:
                recorder.add(item)
        except Exception as error:
            refused = repr(error)
            break
    recorder.close_open()
    return journal.written, recorder.fold, refused


def the_long_way(items: list[Any], limits: Limits) -> tuple[list[bytes], Fold, str]:
    with mock.patch.object(DeltasOf, "more", return_value=None):
        return recorded(items, limits)


def texts() -> st.SearchStrategy[str]:
    pieces = ["", "a", '"', "\n", "é", "\u2028", "😀", "\ud83d", "\ude00", "x" * 450, "é" * 300]
    return st.lists(st.sampled_from(pieces), max_size=3).map("".join)


@st.composite
def deltas(draw: st.DrawFn) -> list[Any]:
    """Several in a row of one message or call; a few of them differ in something."""
    kind, field = draw(
        st.sampled_from(
            [
                (TextMessageContentEvent, "message_id"),
                (ReasoningMessageContentEvent, "message_id"),
                (ToolCallArgsEvent, "tool_call_id"),
            ]
        )
    )
    of: dict[str, Any] = {field: draw(st.sampled_from(IDS)), "subagent_run_id": draw(st.sampled_from([None, "sub"]))}
    differs: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
        [
            *[{}] * 6,
            {"subagent_run_id": "other"},
            {"timestamp": 5},
            {"metadata": {"a": 1}},
            {"raw_event": [1]},
            {"delta": 7},
            {field: IDS[0]},
        ]
    )
    return [kind(**of | {"delta": draw(texts())} | draw(differs)) for _ in range(draw(st.integers(1, 5)))]


def others() -> st.SearchStrategy[list[Any]]:
    return st.sampled_from(IDS).flatmap(
        lambda id: st.sampled_from(
            [
                ["word"],
                [PUT],
                ["\ud83d"],
                [CustomEvent(name="c", value=1)],
                [TextMessageEndEvent(message_id=id)],
                [ReasoningMessageEndEvent(message_id=id)],
                [ToolCallStartEvent(tool_call_id=id, tool_call_name="f")],
                [ToolCallEndEvent(tool_call_id=id)],
            ]
        )
    )


def runs_of_items() -> st.SearchStrategy[list[Any]]:
    started = [ToolCallStartEvent(tool_call_id=id, tool_call_name="f") for id in IDS]
    return st.lists(deltas() | others(), max_size=6).map(lambda parts: [*started, *chain.from_iterable(parts)])


@given(runs_of_items(), st.sampled_from([Limits(), Limits(event_bytes_max=400)]))
def test_what_is_recorded_is_what_the_long_way_records(items: list[Any], limits: Limits):
    written, fold, refused = recorded(items, limits)
    expected, fold_of_all, refused_so = the_long_way(items, limits)
    assert written == expected
    assert msgspec.to_builtins(fold.messages()) == msgspec.to_builtins(fold_of_all.messages())
    assert refused == refused_so


@pytest.fixture
def short() -> Iterator[list[bool]]:
    """Which deltas took the short way."""
    taken: list[bool] = []
    more = DeltasOf.more

    def told(self: DeltasOf, event: Any) -> bytes | None:
        encoded = more(self, event)
        taken.append(encoded is not None)
        return encoded

    with mock.patch.object(DeltasOf, "more", told):
        yield taken


@pytest.mark.parametrize(
    "of",
    [
        lambda delta: TextMessageContentEvent(message_id="m", delta=delta),
        lambda delta: ReasoningMessageContentEvent(message_id="m", delta=delta, subagent_run_id="s"),
        lambda delta: ToolCallArgsEvent(tool_call_id="c", delta=delta),
    ],
)
def test_all_deltas_of_one_message_but_the_first_take_it(short: list[bool], of: Any):
    recorded([ToolCallStartEvent(tool_call_id="c", tool_call_name="f"), *map(of, ["a", "b", "é", "d"])], Limits())
    assert short == [True, True, True]


@pytest.mark.parametrize("kind", [TextMessageContentEvent, ReasoningMessageContentEvent])
def test_what_was_ended_meanwhile_begins_again(kind: Any):
    items = [kind(message_id="m", delta="a"), PUT, kind(message_id="m", delta="b")]
    assert recorded(items, Limits())[0] == the_long_way(items, Limits())[0]
