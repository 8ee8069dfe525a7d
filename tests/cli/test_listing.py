"""`gapless runs`: filters, pages, and a table in terminals of any width; `gapless run`: a run's timeline."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gapless import Runner
from gapless.cli.listing import _print_table, _since_ms
from gapless.errors import UsageError
from gapless.events import (
    CustomEvent,
    Event,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from gapless.records import RunRecord
from gapless.timeline import timeline


async def words(message: str) -> str:
    return "said"


async def raises(message: str) -> str:
    raise ValueError("no")


@pytest.fixture
async def store(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/gapless.db"
    async with Runner(agents={"words": words, "raises": raises}, store=url) as runner:
        for number in range(7):
            agent = "raises" if number == 2 else "words"
            run = await runner.start("hi", agent=agent, run_id=f"run-{number}", user_id=f"u{number % 2}")
            await run.wait()
    return url


def ids(done: Any) -> list[str]:
    assert done.exit_code == 0, done.output
    return [line.split("\t")[0] for line in done.stdout.splitlines()[1:]]


def test_filters(store: str, invoke: Any) -> None:
    target = ("--store", store)
    assert ids(invoke("runs", *target)) == [f"run-{number}" for number in reversed(range(7))]
    assert ids(invoke("runs", "--agent", "raises", *target)) == ["run-2"]
    assert ids(invoke("runs", "--user", "u1", *target)) == ["run-5", "run-3", "run-1"]
    assert ids(invoke("runs", "--user", "u1", "--limit", "2", *target)) == ["run-5", "run-3"]
    assert ids(invoke("runs", "--error", "VALUEERROR", *target)) == ["run-2"]
    assert ids(invoke("runs", "--error", "timeout", *target)) == []
    assert ids(invoke("runs", "--since", "1h", "--limit", "1", *target)) == ["run-6"]
    assert ids(invoke("runs", "--since", "2999-01-01", *target)) == []
    wrong = invoke("runs", "--since", "yesterday", *target)
    assert (wrong.exit_code, "write it as 30m, 2h, 7d" in wrong.stderr) == (2, True)


def test_times_are_some_time_ago_or_a_date() -> None:
    assert abs(_since_ms("2h") / 1000 - (time.time() - 7200)) < 60
    assert _since_ms("2026-03-04T10:30+00:00") == 1772620200000
    with pytest.raises(UsageError):
        _since_ms("2y")


def test_pages_go_on_where_the_one_before_says(store: str, terminal: Callable[..., Any], invoke: Any) -> None:
    first = terminal("runs", "--store", store, "--limit", "3")
    place = first.expect(r"(?s)run-6.*run-5.*run-4.*more: --after ([^ ]+) --store")[1]
    assert first.ends() == 0
    assert ids(invoke("runs", "--store", store, "--after", place)) == ["run-3", "run-2", "run-1", "run-0"]


RUN = "d60cba5b-b83a-4575-9537-778252f41e8d"


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 200])
def test_an_id_is_whole_in_a_terminal_of_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    asked = "漢字 " * 60
    _print_table([RunRecord(id=RUN, session_id=RUN, user_id="u", agent="words", message=asked, created_at=0)] * 2)
    head, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2
    assert all(row.startswith(RUN) for row in rows)
    shown = {20: 1, 40: 1, 60: 3, 80: 4, 120: 7, 200: 8}[columns]
    assert len(head.split()) == shown


def test_a_run_is_shown_as_what_happened(store: str, invoke: Any) -> None:
    done = invoke("run", "run-3", "--store", store)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[:4] == ["run run-3 finished", "agent words", f"session {lines[2].split()[1]}", "user u1"]
    assert lines[5:7] == ["events 5", "asked hi"]
    happened = [re.fullmatch(r"(\d+) \d+\.\d s (.*)", line) for line in lines[7:]]
    groups = [(entry[1], re.sub(r"worker \S+", "worker …", entry[2])) for entry in happened if entry]
    assert groups == [("1", "starts at worker …"), ("2", "says said"), ("5", "finished")]
    failed = invoke("run", "run-2", "--store", store).stdout
    assert "failed" in failed
    assert "ValueError" in failed
    assert invoke("run", "none", "--store", store).exit_code == 1
    short, unnamed = (invoke("run", it, "--store", store) for it in ("ru", ""))
    assert (short.exit_code, "the beginning of an id needs 4 characters" in short.stderr) == (1, True)
    assert (unnamed.exit_code, "give a run's id" in unnamed.stderr) == (2, True)


def test_what_was_said_in_pieces_and_taken_back_is_one_line_each() -> None:
    events: list[Event] = [
        RunStartedEvent(thread_id="t", run_id="r"),
        TextMessageStartEvent(message_id="m"),
        TextMessageContentEvent(message_id="m", delta="one "),
        ToolCallStartEvent(tool_call_id="c", tool_call_name="find"),
        TextMessageContentEvent(message_id="m", delta="two"),
        ToolCallArgsEvent(tool_call_id="c", delta='{"a":'),
        ToolCallArgsEvent(tool_call_id="c", delta="1}"),
        ToolCallResultEvent(message_id="r", tool_call_id="c", content="gone", error="gone"),
        CustomEvent(name="gapless.void", value={"messageIds": ["m"]}),
        RunStartedEvent(thread_id="t", run_id="r"),
        CustomEvent(name="gapless.notice", value={"code": "c", "message": "m"}),
        CustomEvent(name="of.an.agent", value=1),
        RunErrorEvent(message="away", code="lost"),
        RunFinishedEvent(thread_id="t", run_id="r"),
    ]
    made = timeline(list(enumerate(events, 1)), [(1, 100), (3, 400), (8, 9_000)])
    assert [(entry.seq, entry.what, f"{entry.name} {entry.text}".strip()) for entry in made.entries] == [
        (1, "starts", ""),
        (2, "says", "one two"),
        (4, "calls", 'find {"a":1}'),
        (8, "error", "find gone"),
        (9, "takes back", "what the worker before said last: m"),
        (10, "goes on", ""),
        (11, "notice", "c: m"),
        (12, "event", "of.an.agent 1"),
        (13, "failed", "lost: away"),
        (14, "finished", ""),
    ]
    times = [(entry.at, entry.ended_at) for entry in made.entries[:4]]
    assert times == [(100, 100), (100, 400), (400, 400), (9_000, 9_000)]
    assert made.entries[3].of == 4
    assert made.first_token_at == 400
    merged = [(1, events[0]), (2, events[1]), (4, events[2])]
    assert timeline(merged, [(3, 400), (4, 900)]).first_token_at == 400
    assert timeline(list(enumerate(events, 1))).first_token_at is None
