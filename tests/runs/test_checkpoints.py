"""The frame around what an agent saves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

import gapless
from gapless import Agent, Runner
from gapless.agents.base import AgentItem, RunContext
from gapless.errors import CheckpointUnreadable
from gapless.events import TokenUsage
from gapless.runs import checkpoints
from gapless.runs.checkpoints import Frame, decode_frame, encode_frame


def test_what_was_saved_comes_back():
    usage = [TokenUsage(model="m", input_tokens=3, output_tokens=4, total_tokens=7)]
    frame = Frame(
        framework="x 1.2", data=bytes(range(256)), used_s=1.5, questions=2, usage=usage, state={"k": [1, "é"]}
    )
    assert decode_frame(encode_frame(frame), "r") == frame
    assert decode_frame(encode_frame(Frame()), "r").data is None


def test_a_later_frame_with_more_fields_is_read():
    more = msgspec.msgpack.encode([1, "x 1.2", b"data", 0.5, 0, [], None, [], "new"])
    assert decode_frame(more, "r").data == b"data"


@pytest.mark.parametrize("encoded", [b"", b"\xff", encode_frame(Frame(version=2)), msgspec.msgpack.encode({"a": 1})])
def test_what_cannot_be_read_says_so(encoded: bytes):
    with pytest.raises(CheckpointUnreadable, match="run r"):
        decode_frame(encoded, "r")


async def test_an_agent_of_which_nothing_is_kept_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(checkpoints, "_warned", set())

    async def plain(ctx: RunContext) -> AsyncIterator[str]:
        await ctx.save(b"x")
        yield str(await ctx.step("one", lambda: 1))

    async def steps(ctx: RunContext) -> str:
        return str(await ctx.step("one", lambda: 1))

    @gapless.replays
    async def replays(ctx: RunContext) -> str:
        return str(await ctx.step("one", lambda: 1))

    class Saves(Agent):
        name = "saves"
        continues = "from_checkpoint"

        async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
            await ctx.save(b"x")
            yield str(await ctx.step("one", lambda: 1))

    agents = {"plain": plain, "steps": steps, "replays": replays, "saves": Saves()}
    async with Runner(agents=agents) as runner:  # in memory, where no run goes on: that is no agent's fault
        for name in [*agents, *agents]:
            assert (await (await runner.start("x", agent=name)).collect()).text == "1"
    told = [record.getMessage() for record in caplog.records if "keeps nothing" in record.getMessage()]
    assert [line.partition(": ")[2].partition(",")[0] for line in told] == [
        "agent plain calls ctx.save",
        "agent steps calls ctx.step",
    ]
    assert "@gapless.replays" in told[0]
