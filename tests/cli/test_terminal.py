"""Nothing that an agent or a server says drives the terminal."""

from __future__ import annotations

import logging
import re
import sys

import pytest

from gapless.cli.doctor import Finding, _Report
from gapless.cli.listing import _print_table, _row
from gapless.cli.logs import _Line
from gapless.cli.terminal import Transcript, rule, say, say_error
from gapless.events import (
    CustomEvent,
    RunErrorEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
)
from gapless.records import RunRecord

EVIL = "a\x1b]0;title\x07b\x1b[2J\x9b2Jc\x08\x7f\u202e\u2066"
CONTROLS = {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066)}


@pytest.mark.parametrize(("columns", "wide"), [("40", 40), ("70", 70), ("200", 70)])
def test_a_rule_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str, wide: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert rule() == "=" * wide


def test_messages_for_the_person_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    say_error(f"{EVIL}\n{EVIL}")
    _Report().say(Finding("bad", EVIL, EVIL))
    out, err = capsys.readouterr()
    assert not CONTROLS & set(out + err)
    assert err.splitlines()[1].startswith("Error: a�]0;title�b"), "and readable, in one line"
    assert err.count("\n") == 2


def test_a_run_is_clean_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    transcript = Transcript()
    transcript.show(TextMessageContentEvent(message_id="m", delta=EVIL))
    transcript.show(ToolCallStartEvent(tool_call_id="t", tool_call_name=EVIL))
    transcript.show(ToolCallEndEvent(tool_call_id="t"))
    transcript.show(CustomEvent(name="gapless.notice", value={"code": "x", "message": EVIL}))
    transcript.show(RunErrorEvent(message=EVIL))
    out, err = capsys.readouterr()
    assert out.count("]0;title") == 3
    assert not CONTROLS & set(re.sub(r"\x1b\[\d*m", "", out + err)), "but for the styles that are ours"


def say_text(transcript: Transcript, id: str, *deltas: str) -> None:
    transcript.show(TextMessageStartEvent(message_id=id))
    for delta in deltas:
        transcript.show(TextMessageContentEvent(message_id=id, delta=delta))
    transcript.show(TextMessageEndEvent(message_id=id))


def test_text_that_is_taken_back_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript()
    say_text(transcript, "a", "Yes. ", "I fetched")
    transcript.show(CustomEvent(name="gapless.void", value={"messageIds": [], "toolCallIds": [], "cut": {"a": 5}}))
    say_text(transcript, "b", "I have fetched", EVIL)
    transcript.show(CustomEvent(name="gapless.void", value={"messageIds": ["b", "t"], "toolCallIds": []}))
    say_text(transcript, "c", "Two.")
    transcript.show(CustomEvent(name="gapless.restarted", value={}))
    say_text(transcript, "d", "Two.")
    out, err = capsys.readouterr()
    assert out == f"Yes. I fetched\nI have fetched{EVIL}\nTwo.\nTwo."
    first, second, third = err.splitlines()
    assert (first, third) == ("[taken back: I fetched]", "[taken back: Yes. Two.]")
    assert second.startswith("[taken back: I have fetcheda�]0;")
    assert not CONTROLS & set(err)


def test_what_is_taken_back_and_is_not_shown_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript()
    transcript.show(CustomEvent(name="gapless.void", value={"messageIds": ["t"], "toolCallIds": ["c"]}))
    assert capsys.readouterr() == ("", "")


def test_a_file_is_a_line_behind_the_text_that_it_comes_in(capsys: pytest.CaptureFixture[str]) -> None:
    transcript = Transcript(lambda event: event.value.get("url") if isinstance(event.value, dict) else None)
    transcript.show(TextMessageContentEvent(message_id="a", delta="See "))
    plot = {"name": f"plot{EVIL}.png", "mimeType": "image/png", "size": 70_000, "url": "/runs/r/blobs/1"}
    transcript.show(CustomEvent(name="gapless.file", value=plot))
    transcript.show(TextMessageContentEvent(message_id="a", delta="this."))
    transcript.show(TextMessageEndEvent(message_id="a"))
    transcript.show(CustomEvent(name="gapless.file", value={"mimeType": "text/plain", "data": "aGVsbG8="}))
    transcript.show(CustomEvent(name="gapless.file", value="odd"))
    out, err = capsys.readouterr()
    assert out == "See this.\n"
    first, *others = err.splitlines()
    assert first.startswith("[file: plota")
    assert first.endswith(".png, image/png, 70,000 bytes] /runs/r/blobs/1")
    assert others == ["[file: text/plain, 5 bytes]", "[file: of an unknown type]"]
    assert not CONTROLS & set(err)


def test_a_list_of_runs_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    run = RunRecord(id=EVIL, session_id=f"{EVIL}\t\n", user_id="u", agent=EVIL, message=EVIL, created_at=0)
    assert not (CONTROLS | set("\t\n")) & set("".join(_row(run)))
    _print_table([run])
    assert not CONTROLS & set(capsys.readouterr().out)


def test_a_log_line_is_clean() -> None:
    record = logging.makeLogRecord(
        {"name": "n", "msg": "run %s: %s", "args": (f"{EVIL}\nb", EVIL), "levelname": "INFO"}
    )
    try:
        raise ValueError(EVIL)
    except ValueError:
        record.exc_info = sys.exc_info()
    assert not CONTROLS & set(_Line().format(record))
