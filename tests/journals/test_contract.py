"""What the contract says of its records."""

from __future__ import annotations

import random

import msgspec
import pytest

from gapless.events import AssistantMessage, UserMessage
from gapless.records import AFTER, Turn, branch


def turns(asked: str) -> list[Turn]:
    """One turn per letter, which is the id of its message; `-` is one that ended before it began."""
    made = []
    for number, id in enumerate(asked):
        messages = [UserMessage(id=id, content="?"), AssistantMessage(id="a", content="!")] if id != "-" else []
        made.append(Turn(run_id=f"{id}{number}", messages=msgspec.Raw(msgspec.json.encode(messages))))
    return made


@pytest.mark.parametrize(
    ("asked", "before", "kept"),
    [
        ("", None, ""),
        ("abc", None, "a0b1c2"),
        ("abcb", None, "a0b3"),
        ("abcbc", None, "a0b3c4"),
        ("aba", None, "a2"),
        ("ab-", None, "a0b1"),
        ("abc", "b", "a0"),
        ("abc", "a", ""),
        ("abc", "new", "a0b1c2"),
        ("abca", "b", "a3"),
        ("abcba", "", "a4"),
    ],
)
def test_a_message_that_is_asked_again_takes_the_place_of_all_since(asked: str, before: str | None, kept: str):
    assert "".join(turn.run_id for turn in branch(turns(asked), before)) == kept


def test_a_message_may_say_after_which_run_it_is_asked():
    def after(*places: tuple[str, str | None]) -> str:
        made = [
            Turn(
                run_id=id,
                messages=msgspec.Raw(
                    msgspec.json.encode(
                        [UserMessage(id=id, content="?", metadata=None if place is None else {AFTER: place})]
                    )
                ),
            )
            for id, place in places
        ]
        return "".join(turn.run_id for turn in branch(made))

    a, b, c = ("a", None), ("b", None), ("c", None)
    assert after(a, b, c, ("d", "a")) == "ad"
    assert after(a, b, c, ("d", "a"), ("e", "c")) == "abce", "a line that was left can be gone on with"
    assert after(a, b, ("d", ""), ("e", None)) == "de"
    assert after(a, b, ("d", "unknown")) == "abd"
    changed = UserMessage(id="x", content="?", metadata={AFTER: "a0"})
    assert [turn.run_id for turn in branch(turns("abc"), changed)] == ["a0"]


def test_no_message_is_twice_in_a_branch():
    for seed in range(200):
        asked = "".join(random.Random(seed).choices("abcdef", k=20))
        ids = [turn.run_id[0] for turn in branch(turns(asked))]
        expected: list[str] = []
        for id in asked:
            expected = [*(expected[: expected.index(id)] if id in expected else expected), id]
        assert ids == expected, f"seed {seed}: {asked}"
