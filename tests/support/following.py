"""What a test makes of what a client has followed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gapless.events import Event, TextMessageContentEvent

Seen = list[tuple[int, Event]]


async def text_to(follower: AsyncIterator[tuple[int, Event]], text: str) -> Seen:
    """What the follower gets until this text has come."""
    seen: Seen = []
    async for entry in follower:
        seen.append(entry)
        if text_in(seen).endswith(text):
            return seen
    raise AssertionError(f"the stream ended after {text_in(seen)!r}, before {text!r}")


async def rest_of(follower: AsyncIterator[tuple[int, Event]]) -> Seen:
    return [entry async for entry in follower]


def text_in(seen: Seen) -> str:
    return "".join(event.delta for _, event in seen if isinstance(event, TextMessageContentEvent))


def merged(seen: Seen) -> list[tuple[int, str]]:
    """What was seen, with adjacent deltas made one, as they are for a follower that is behind: position and content.

    Two followers of one run have seen the same, whole, once and in order, exactly if this is equal."""
    out: list[tuple[int, str]] = []
    previous: Event | None = None
    for seq, event in seen:
        if isinstance(event, TextMessageContentEvent):
            if isinstance(previous, TextMessageContentEvent) and previous.message_id == event.message_id:
                out[-1] = (seq, out[-1][1] + event.delta)
            else:
                out.append((seq, event.delta))
        else:
            out.append((seq, repr(event)))
        previous = event
    return out
