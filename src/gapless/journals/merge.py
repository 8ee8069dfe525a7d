"""Merging adjacent deltas without decoding them: what makes catching up cheap.

Two stored events can become one when both are deltas of the same text message, reasoning message or tool call, that is
when their JSON is the same up to the delta's text. `gapless.events` writes the delta last, so the merged event is the
common head followed by the texts: escaped JSON strings concatenate.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["MERGED_BYTES_MAX", "merge_deltas"]

MERGED_BYTES_MAX = 64 * 1024
"""A merged event stops growing here, so that one frame stays a bounded piece of work for a client."""

_DELTA = b',"delta":"'
_MERGEABLE = (
    b'{"type":"TEXT_MESSAGE_CONTENT"',
    b'{"type":"TOOL_CALL_ARGS"',
    b'{"type":"REASONING_MESSAGE_CONTENT"',
)


def merge_deltas(first_seq: int, events: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Events at `first_seq`, `first_seq` + 1, … → (position, event) pairs, adjacent deltas joined.

    A merged event has the position of its last part: a client that has seen it has seen them all.
    """
    merged: list[tuple[int, bytes]] = []
    texts: list[bytes] = []
    head = b""
    size = 0
    seq = first_seq - 1
    for event in events:
        if head and event.startswith(head) and size < MERGED_BYTES_MAX:
            text = event[len(head) : -2]
            texts.append(text)
            size += len(text)
            seq += 1
            continue
        if head:
            merged.append((seq, head + b"".join(texts) + b'"}'))
            head = b""
        seq += 1
        if event.startswith(_MERGEABLE):
            # The text comes last and its quotes are escaped, so the last match is the key itself.
            cut = event.rfind(_DELTA) + len(_DELTA)
            head, texts = event[:cut], [event[cut:-2]]
            size = len(event)
        else:
            merged.append((seq, event))
    if head:
        merged.append((seq, head + b"".join(texts) + b'"}'))
    return merged
