"""The times of a segment's groups in an SQLite file: differences from one to the next, in as many bytes as they need.

A number is written as in Protocol Buffers (base 128 varints): seven bits a byte, the lowest first, the eighth says that
there is more. A difference of times has its sign in the lowest bit: a clock may be set back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gapless.journals.contract import GroupTime

__all__ = ["pack_times", "unpack_times"]


def pack_times(first_seq: int, times: Iterable[GroupTime]) -> bytes:
    """Write the times of groups in the segment from `first_seq` on, in order."""
    packed, before, at_before = bytearray(), first_seq, 0
    for time in times:
        after = time.at - at_before
        for number in (time.seq - before, 2 * after if after >= 0 else -2 * after - 1):
            while number > 0x7F:
                packed.append(number & 0x7F | 0x80)
                number >>= 7
            packed.append(number)
        before, at_before = time.seq, time.at
    return bytes(packed)


def unpack_times(first_seq: int, packed: bytes) -> Iterator[GroupTime]:
    """Read what `pack_times` wrote. Raises `ValueError` where it is something else."""
    seq, at, numbers = first_seq, 0, _numbers(packed)
    for after in numbers:
        ms = next(numbers, None)
        if ms is None:
            raise ValueError("the times of a segment end in the middle")
        seq += after
        at += ms >> 1 if ms & 1 == 0 else -(ms + 1 >> 1)
        yield GroupTime(seq, at)


def _numbers(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
