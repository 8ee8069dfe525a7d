"""Times of a segment's groups, packed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.journals.contract import GroupTime
from gapless.journals.sqlite_times import pack_times, unpack_times


@given(st.integers(1, 2**31), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2**53)), max_size=20))
def test_what_was_packed_is_unpacked(first_seq: int, steps: list[tuple[int, int]]) -> None:
    seq, times = first_seq, []
    for after, at in steps:  # a time may be before the last: a clock was set back
        seq += after
        times.append(GroupTime(seq, at))
    assert list(unpack_times(first_seq, pack_times(first_seq, times))) == times


def test_words_cost_less_than_a_byte_each() -> None:
    times = [GroupTime(1 + 8 * n, 1_764_500_000_000 + 264 * n) for n in range(32)]  # 30 words a second, a segment's
    assert len(pack_times(1, times)) / 256 < 0.5


def test_what_ends_in_the_middle_is_said() -> None:
    with pytest.raises(ValueError, match="in the middle"):
        list(unpack_times(1, b"\x01"))
