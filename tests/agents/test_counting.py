"""What was used beside what was counted."""

from __future__ import annotations

from gapless.agents.counting import rest_of
from gapless.events import TokenUsage


def test_the_rest_is_the_whole_without_what_was_counted() -> None:
    total = TokenUsage(model="m", input_tokens=100, output_tokens=20, cached_input_tokens=30)
    counted = [TokenUsage(input_tokens=60, output_tokens=5, cached_input_tokens=30), TokenUsage(input_tokens=10)]
    rest = rest_of(total, counted)
    assert rest == TokenUsage(model="m", input_tokens=30, output_tokens=15, total_tokens=45)


def test_there_is_no_rest_where_all_was_counted_or_more() -> None:
    assert rest_of(TokenUsage(input_tokens=5, output_tokens=1), [TokenUsage(input_tokens=9, output_tokens=1)]) is None
    assert rest_of(TokenUsage(), []) is None
