"""A question at the terminal: which it is, and what is typed as its answer."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.cli.questions import ask_person, entry_of, shown
from gapless.errors import UsageError
from gapless.events import Interrupt, ResumeEntry

APPROVAL = {"type": "object", "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TRIP = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "title": "Where to"},
        "nights": {"type": "integer", "default": 2},
        "class": {"enum": ["first", "second"]},
        "quiet": {"type": "boolean"},
    },
    "required": ["city", "class"],
}


def question(reason: str = "question", schema: Any = None, **metadata: Any) -> Interrupt:
    return Interrupt(id="i", reason=reason, message="Well?", response_schema=schema, metadata=metadata or None)


@pytest.mark.parametrize(
    ("asked", "typed", "payload"),
    [
        (question("approval"), "Yes", {"approved": True}),
        (question("tool_call", APPROVAL), "n", {"approved": False}),
        (
            question("tool_call", APPROVAL),
            '{"approved": false, "reason": "dear"}',
            {"approved": False, "reason": "dear"},
        ),
        (question("input", kind="approval"), "y", {"approved": True}),
        (question(), "y", "y"),
        (question(), " Oslo, perhaps ", "Oslo, perhaps"),
        (question(), '{"a": 1}', {"a": 1}),
        (question("long_running", kind="external"), "[1]", [1]),
        (question(schema=CITY), "Oslo", {"city": "Oslo"}),
        (question(schema=CITY), '{"city": "Oslo"}', {"city": "Oslo"}),
        (question(schema={"type": "integer"}), "3", 3),
        (question(schema={"type": "number"}), "0.5", 0.5),
        (question(schema={"type": "boolean"}), "no", False),
        (question(schema={"type": "string"}), "5", "5"),
        (question(schema={"enum": ["a", 2]}), "2", 2),
        (question(schema={"type": "array"}), '["a"]', ["a"]),
    ],
)
def test_what_is_typed_is_the_answer(asked: Interrupt, typed: str, payload: Any):
    assert entry_of(asked, typed) == ResumeEntry(interrupt_id="i", status="resolved", payload=payload)
    assert entry_of(asked, "  ") == ResumeEntry(interrupt_id="i", status="cancelled")


@pytest.mark.parametrize(
    ("asked", "typed", "said"),
    [
        (question("approval"), "perhaps", "'perhaps' is no answer here: write y, n or JSON"),
        (question(schema=TRIP), "Oslo", "write JSON with city, nights, class, quiet"),
        (question(schema={"type": "integer"}), "three", "'three' is no integer"),
        (question(schema={"type": "integer"}), "true", "'true' is no integer"),
        (question(schema={"enum": ["a", "b"]}), "c", "'c' is none of a, b"),
    ],
)
def test_what_is_no_answer_is_refused(asked: Interrupt, typed: str, said: str):
    with pytest.raises(UsageError) as caught:
        entry_of(asked, typed)
    assert said in caught.value.message


def test_a_form_is_asked_field_by_field(monkeypatch: pytest.MonkeyPatch):
    typed = iter(["", "Oslo", "", "third", "first", ""])
    asked = []
    said = list[str]()

    def prompt(text: str, **_: Any) -> str:
        asked.append(text)
        return next(typed)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("gapless.cli.questions.say_error", said.append)
    answered = ask_person(question(schema=TRIP))
    assert answered.payload == {"city": "Oslo", "nights": 2, "class": "first"}
    assert asked[0] == "Where to (string)"
    assert "nights (integer; 2 if empty)" in asked
    assert "quiet (boolean; may be empty)" in asked
    assert said == ["city is wanted", "'third' is none of first, second"]


def test_a_question_shows_its_call():
    asked = question("tool_call", toolName="pay", arguments={"amount": 5})
    assert shown(asked) == 'Well? [pay {"amount":5}]'


EVIL = "\x1b]0;title\x07\u202e"
ODD: dict[str, Any] = {
    "properties": {
        f"any{EVIL}": True,
        "either": {"type": ["null", "integer"], "default": EVIL},
        "what": {"type": {"a": 1}, "enum": "abc", "title": 5},
        "many": {"enum": [EVIL, *range(10_000)]},
    },
    "required": None,
}


def test_a_schema_of_any_kind_is_asked_and_drives_no_terminal(monkeypatch: pytest.MonkeyPatch):
    asked, said, typed = list[str](), list[str](), iter(["x", "three", "3", "y", "no", "7", "z"])

    def prompt(text: str, **_: Any) -> str:
        asked.append(text)
        return next(typed)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("gapless.cli.questions.say_error", said.append)
    answered = ask_person(question(schema=ODD))
    assert answered.payload == {f"any{EVIL}": "x", "either": 3, "what": "y", "many": 7}
    assert len(said) == 2
    for kind in ("approval", "question"):
        approval = question("input", ODD, kind=kind)
        monkeypatch.setattr("gapless.cli.questions.say", asked.append)
        typed = iter(["z", "y", "", "", "", "", ""])
        ask_person(approval)
    assert "\x1b" not in "".join([*asked, *said])
    assert all(len(text) < 2000 for text in [*asked, *said])
    nothing: list[Any] = [{"properties": None}, {"properties": ["a"]}, {"type": ["null"]}, {"type": 5}, {"enum": {}}]
    for none in nothing:
        assert entry_of(question(schema=none), "x").payload == "x"


def test_nobody_at_the_terminal_is_no_answer():
    assert ask_person(question("approval")).status == "cancelled"
