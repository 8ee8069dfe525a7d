"""The Python clients follow a user's feed, through cuts."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import unquote

import pytest

from gapless import Runner, create_app
from gapless.client import FeedChange, GaplessClient, SyncClient
from gapless.errors import StreamInvalid
from gapless.testing import serving
from tests.client.test_client import IMPATIENT, OK, Request, reset, scripted
from tests.support.runs import ask
from tests.support.waiting import WAIT_S

CHANGES = ['{"type":"reset"}', *(f'{{"type":"deleted","session_id":"s{n}"}}' for n in range(4))]
FRAMES = [f"data: {data}\nid: e-{n}\n\n".encode() for n, data in enumerate(CHANGES)]


async def test_a_cut_at_any_byte_loses_and_repeats_nothing():
    offset, cut = 0, False

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        known = unquote(request.target.partition("?after=")[2])
        rest = FRAMES[int(known[2:]) + 1 :] if known.startswith("e-") else FRAMES
        if cut:
            writer.write(OK + b"\r\n" + b"".join(rest))
            return
        cut = True
        writer.write(OK + b"\r\n" + b"".join(rest)[:offset])
        await writer.drain()
        reset(writer)

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        for offset in range(0, len(b"".join(FRAMES)), 3):
            cut, told = False, []
            async with contextlib.aclosing(client.follow_feed()) as changes:
                async for cursor, change in changes:
                    told.append((cursor, change.session_id))
                    if cursor == "e-4":
                        break
            assert told == [("e-0", None), *((f"e-{n}", f"s{n - 1}") for n in range(1, 5))], f"cut after {offset} bytes"


async def test_what_is_no_feed_is_said_to_be_none():
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b'\r\ndata: {"type":"else"}\nid: 1\n\n')

    async with scripted(handler) as url, GaplessClient(url, limits=IMPATIENT) as client:
        with pytest.raises(StreamInvalid, match="the feed"):
            await client.follow_feed().__anext__()


def test_both_clients_hear_of_a_run_that_waits_and_is_answered():
    with serving(create_app(Runner(ask))) as url, SyncClient(url) as client:
        changes = client.follow_feed()
        _, first = next(changes)
        assert first == FeedChange(type="reset")
        run = client.start("Hello", session_id="s")
        cursor, session = next(
            (cursor, change.session)
            for cursor, change in changes
            if change.session is not None and change.session.active_run_status == "waiting"
        )
        assert (session.id, session.title, session.newest_run_id) == ("s", "Hello", run.id)
        assert session.active_run_id == run.id
        changes.close()
        client.cancel(run.id)  # while nobody reads
        changes = client.follow_feed(cursor)
        ended = next(change.session for _, change in changes if change.session and not change.session.active_run_id)
        assert ended.newest_run_status == "cancelled"
        changes.close()

    async def heard() -> None:
        with serving(create_app(Runner(ask))) as url:
            async with GaplessClient(url) as client, asyncio.timeout(WAIT_S):
                changes = client.follow_feed()
                cursor, _ = await changes.__anext__()
                await changes.aclose()
                await client.create_session("s")
                changes = client.follow_feed(cursor)
                _, change = await changes.__anext__()
                assert change.session is not None
                assert change.session.id == "s", "what came while nobody read"
                await changes.aclose()

    asyncio.run(heard())
