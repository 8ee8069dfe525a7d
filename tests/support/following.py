"""What a test makes of what a client has followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gapless.client import Cut
from gapless.events import Event, TextMessageContentEvent
from gapless.journals.contract import RunStatus
from support.processes import Server, client_of

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


class Audience:
    """Clients of one URL that each follow a run to its end, and say how far they are."""

    def __init__(self, url: str, run_ids: list[str]) -> None:
        self.cuts: list[Cut] = []
        self.seen: dict[str, Seen] = {run_id: [] for run_id in run_ids}
        self._changed = asyncio.Condition()
        self._url = url
        self._tasks = [asyncio.create_task(self._follow(run_id)) for run_id in run_ids]

    async def _follow(self, run_id: str) -> None:
        async with client_of(self._url, self.cuts.append) as client:
            async for entry in client.follow(run_id):
                self.seen[run_id].append(entry)
                async with self._changed:
                    self._changed.notify_all()

    async def has_heard(self, text: str) -> None:
        """Wait until each of them has."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(text_in(seen).endswith(text) for seen in self.seen.values()))

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)


async def check_all_saw_the_whole(audience: Audience, replica: Server, text: str) -> None:
    async with client_of(replica.url) as client:
        for run_id, seen in audience.seen.items():
            page = await client.page(run_id)
            assert merged(seen) == merged(list(enumerate(page.events, 1)))
            assert text_in(seen) == text
            assert (await client.record(run_id)).status is RunStatus.FINISHED
