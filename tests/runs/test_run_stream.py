"""What a program reads of a run while it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gapless import Runner
from gapless.records import RunStatus
from tests.support.agents import Gated


async def test_text_comes_in_the_sizes_asked_for(store: str):
    async def letters(message: str) -> AsyncIterator[str]:
        for letter in "abcdefghij":
            yield letter

    async with Runner(letters, store=store) as runner:
        run = await runner.start("x")
        assert [text async for text in run.text(min_chars=4)] == ["abcd", "efgh", "ij"]


async def test_held_text_goes_out_after_the_delay():
    agent = Gated("a", "b")
    async with Runner(agent) as runner:
        run = await runner.start("x")
        texts = run.text(min_chars=100, max_delay_ms=1)
        agent.let()
        assert await anext(texts) == "a"  # though nothing follows it
        agent.let(2)
        assert [text async for text in texts] == ["b"]


async def test_leaving_a_run_stream_cancels_its_run():
    agent = Gated("a", "b")
    async with Runner(agent) as runner:
        agent.let()
        async with runner.run_stream("x") as stream:
            async for text in stream.stream_text():
                assert text == "a"
                break
        assert (await stream.run.record()).status is RunStatus.CANCELLED
        assert agent.stopped.is_set()
