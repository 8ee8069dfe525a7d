"""Conversations by what was said in them. No store has an index of texts: conversations are read, latest used first,
for a bounded time, and who wants to know more goes on from there."""

from __future__ import annotations

import asyncio
import bisect
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gapless.aside import aside
from gapless.records import Listing, SessionRecord, Turn, no_place

if TYPE_CHECKING:
    from gapless.runs.runner import Runner

__all__ = ["Search", "search_sessions"]

SEARCH_S = 0.5
"""What one page of a search takes, and what it takes to read one conversation."""
READ_AT_ONCE = 100
"""Records that are asked of the store at once."""
PIECE_CHARS = 65_536
"""Of a text, searched at once: some 0.2 ms, in which no other thread of Python has its turn."""
FOUND_CHARS_BEFORE, FOUND_CHARS = 30, 120
"""Of the text that is shown around what was found."""


class Search(NamedTuple):
    """Keeps what was found: conversations, and by their ids the text around what was found in one, "" where it is in
    the title."""

    sessions: Listing[SessionRecord]
    found: dict[str, str]


class _Message(msgspec.Struct):
    role: str
    content: Any = None


_decode = msgspec.json.Decoder(list[_Message]).decode


async def search_sessions(
    runner: Runner, text: str, *, user_id: str, agent: str | None, limit: int, after: str | None
) -> Search:
    """Return at most `limit` conversations of `user_id` (and with `agent`) that have `text` in their title or in what
    was asked and answered, in whatever case; "" is in all. `next` where it was not looked through all of them: the page
    may be empty all the same. Raises `CursorInvalid`, `StoreUnavailable`."""
    wanted = text.casefold()
    deadline = time.monotonic() + SEARCH_S
    matches = Search(Listing(), {})
    seen, place = _place(after)
    while True:
        page = await runner.list_sessions(user_id=user_id, limit=READ_AT_ONCE, after=place)
        ids = [record.id for record in page]
        for record in page[ids.index(seen) + 1 if seen in ids else 0 :]:
            if agent is None or record.agent == agent:
                found = "" if _find(record.title, wanted) is not None else await _found_in(runner, record, wanted)
                if found is not None:
                    matches.sessions.append(record)
                    matches.found[record.id] = found
            last = record.id == ids[-1] and page.next is None
            if not last and (len(matches.sessions) >= limit or time.monotonic() > deadline):
                matches.sessions.next = f"{record.id} {place or ''}"
                return matches
        if page.next is None:
            return matches
        place = page.next


def _place(after: str | None) -> tuple[str, str | None]:
    """Return the conversation that was looked through last, and the place in the list before its page: places behind
    single records are the store's own."""
    if after is None:
        return "", None
    seen, space, place = after.partition(" ")
    if not (seen and space):
        raise no_place(after)
    return seen, place or None


async def _found_in(runner: Runner, record: SessionRecord, wanted: str) -> str | None:
    """Return the text around the newest place where something is said, None for none."""
    turns = await runner.turns(record.id)
    async with runner.worker.sessions.searched:
        await asyncio.sleep(0)  # a store in memory has them at once; others have their turn all the same
        return await aside(sum(len(bytes(turn.messages)) for turn in turns), lambda: _look(turns, wanted))


def _look(turns: list[Turn], wanted: str) -> str | None:
    for turn in reversed(turns):
        for message in _decode(turn.messages):
            if message.role not in ("user", "assistant"):
                continue
            for said in _texts(message.content):
                if (at := _find(said, wanted)) is not None:
                    start = max(0, at - FOUND_CHARS_BEFORE)
                    shown = " ".join(said[start : start + FOUND_CHARS].split())
                    return f"{'…' if start else ''}{shown}{'…' if start + FOUND_CHARS < len(said) else ''}"
    return None


def _find(text: str, folded: str) -> int | None:
    """Return where a text is, which is case-folded (Unicode, section 3.13). By `str.find`, whose time grows with the
    length of what is searched alone: a regular expression's grows with that of what is looked for, too."""
    for start in range(0, len(text), PIECE_CHARS):
        piece = text[start : start + PIECE_CHARS + len(folded)]
        if (at := piece.casefold().find(folded)) >= 0:
            if not piece.isascii():  # a character's folded form may be longer: "ß" and "ss"
                at = bisect.bisect_right(range(len(piece)), at, key=lambda end: len(piece[:end].casefold())) - 1
            return start + at
    return None if folded else 0


def _texts(content: Any) -> list[str]:
    """Return the texts of a message's content, a text or parts of several kinds."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
