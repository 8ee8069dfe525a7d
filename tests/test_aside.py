"""What is much to decode is decoded while others go on."""

from __future__ import annotations

import asyncio
import threading

import pytest

import gapless.aside
import gapless.runs.sessions
from gapless import Runner
from gapless.agents.base import RunContext
from gapless.aside import ASIDE_BYTES, aside
from gapless.events import Message, text_of


@pytest.mark.parametrize(("size", "elsewhere"), [(ASIDE_BYTES, False), (ASIDE_BYTES + 1, True)])
async def test_much_is_done_in_a_thread(size: int, elsewhere: bool):
    assert (await aside(size, threading.get_ident) != threading.get_ident()) is elsewhere


async def test_the_event_loop_has_its_turns_meanwhile():
    done = threading.Event()
    asyncio.get_running_loop().call_soon(done.set)
    assert await aside(ASIDE_BYTES + 1, lambda: done.wait(10))


async def test_a_long_conversation_says_the_same(monkeypatch: pytest.MonkeyPatch):
    threads: set[int] = set()
    decode = gapless.runs.sessions._decode_messages

    def noted(data: bytes) -> list[Message]:
        threads.add(threading.get_ident())
        return decode(data)

    monkeypatch.setattr(gapless.runs.sessions, "_decode_messages", noted)
    monkeypatch.setattr(gapless.aside, "ASIDE_BYTES", 0)
    monkeypatch.setattr(gapless.runs.sessions, "ASIDE_BYTES", 0)

    async def tell(ctx: RunContext) -> str:
        return ", ".join(text_of(message.content) for message in ctx.messages)

    async with Runner(tell) as runner:
        for message in ("one", "two", "three"):
            run = await runner.start(message, session_id="s")
            text = "".join([piece async for piece in run.text()])
        assert text == "one, one, two, one, one, two, three"
        assert [text_of(one.content) for one in await runner.messages("s")][-2:] == ["three", text]
    assert threads
    assert threading.get_ident() not in threads
