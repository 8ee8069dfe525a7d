"""What records say: a session's title out of its first message."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gapless.records import TITLE_MADE_CHARS_MAX, title_of
from gapless.runs.request import title_given


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("one\ntwo", "one"),
        ("  one \r\ntwo", "one"),
        ("one\x0btwo", "one"),
        ("one\u2028two", "one"),
        ("\x1b[31mred\x1b[0m\tand  blue\x07", "red and blue"),
        ("\x9b1;31mred\x1b[?25l", "red"),
        ("\x1b]0;the terminal's\x07 said", "said"),
        ("\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b", ""),
        ("\x1b[0m\nsecond", "second"),
        ("\x00\x00", ""),
        ("", ""),
        ("two  blanks", "two  blanks"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("x" * 100_000, "x" * 79 + "…"),
        ("\n" * 100_000 + "late", "late"),
        ("Zoë’s 👩🏽‍🚀", "Zoë’s 👩🏽‍🚀"),
    ],
)
def test_a_title_is_the_first_line_that_can_be_read(message: str, title: str):
    assert title_of(message) == title


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\x1b[" + "x" * 200)
@example("\x85a\x1c")
@example("x" * 78 + "  y")
def test_a_title_that_is_made_could_be_given(message: str):
    title = title_of(message)
    assert title_given(title) == title
    assert len(title) <= TITLE_MADE_CHARS_MAX
