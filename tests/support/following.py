"""What a test makes of what a client has followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from gapless.client import Cut
from gapless.events import Event, TextMessageContentEvent
from gapless.records import RunStatus
from tests.support.processes import Server, client_of
from tests.support.waiting import WAIT_S

Seen = list[tuple[int, Event]]


async def text_to(follower: AsyncIterator[tuple[int, Event]], text: str) -> Seen:
    """What the follower gets until this text has come."""
    seen: Seen = []
    try:
        async with asyncio.timeout(WAIT_S):
            async for entry in follower:
                seen.append(entry)
                if text_in(seen).endswith(text):
                    return seen
    except TimeoutError:
        raise AssertionError(f"nothing came after {text_in(seen)!r}, before {text!r}") from None
    raise AssertionError(f"the stream ended after {text_in(seen)!r}, before {text!r}")


async def rest_of(follower: AsyncIterator[tuple[int, Event]]) -> Seen:
    """What the follower gets until the stream's end."""
    seen: Seen = []
    try:
        async with asyncio.timeout(WAIT_S):
            async for entry in follower:
                seen.append(entry)
    except TimeoutError:
        raise AssertionError(f"the stream does not end after {text_in(seen)!r}") from None
    return seen


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
        self._news = asyncio.Event()
        self._url = url
        self._tasks = [asyncio.create_task(self._follow(run_id)) for run_id in run_ids]
        for task in self._tasks:
            task.add_done_callback(lambda _: self._news.set())

    async def _follow(self, run_id: str) -> None:
        async with client_of(self._url, self._note) as client:
            async for entry in client.follow(run_id):
                self.seen[run_id].append(entry)
                self._news.set()

    def _note(self, cut: Cut) -> None:
        self.cuts.append(cut)
        self._news.set()

    async def has_heard(self, text: str) -> None:
        """Wait until each of them has."""
        await self._until(lambda: all(text_in(seen).endswith(text) for seen in self.seen.values()), f"heard {text!r}")

    async def is_cut(self) -> None:
        """Wait until one of them is."""
        await self._until(lambda: bool(self.cuts), "cut")

    async def end(self) -> None:
        """Wait for the end of all that they follow."""
        await self._until(lambda: all(task.done() for task in self._tasks), "at the end")
        for task in self._tasks:
            task.result()

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        """Fails where one of them has failed, or nothing can come any more."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not holds():
                    for task in self._tasks:
                        if task.done():
                            task.result()
                    assert not all(task.done() for task in self._tasks), f"all have ended and are not {what}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            heard = {run_id: text_in(seen) for run_id, seen in self.seen.items()}
            raise AssertionError(f"not {what}: {heard}, {len(self.cuts)} cuts") from None


async def check_all_saw_the_whole(audience: Audience, replica: Server, text: str) -> None:
    async with client_of(replica.url) as client:
        for run_id, seen in audience.seen.items():
            page = await client.page(run_id)
            assert merged(seen) == merged(list(enumerate(page.events, 1)))
            assert text_in(seen) == text, page.events[-1]
            assert (await client.record(run_id)).status is RunStatus.FINISHED
