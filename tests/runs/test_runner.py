"""Runs that are started, once, and their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless import Limits, Runner
from gapless.agents.base import RunContext
from gapless.errors import (
    AgentNotFound,
    InputInvalid,
    InputTooLarge,
    LimitReached,
    ModelFailed,
    RunConflict,
    RunNotFound,
    SessionNotFound,
    UsageError,
)
from gapless.events import (
    ImagePart,
    RunStartedEvent,
    TextMessageContentEvent,
    UrlSource,
    text_of,
)
from gapless.records import RunStatus
from tests.support.agents import Gated
from tests.support.runs import echo, events_of


async def test_a_run_from_message_to_record(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("hello", session_id="s", run_id="r")
        response = await run.collect()
        assert (response.text, response.chunks) == ("you said hello", ["you", " said ", "hello"])
        record = await run.record()
        assert (record.status, record.last_seq, record.session_id) == (RunStatus.FINISHED, 7, "s")
        assert record.created_at <= (record.started_at or 0) <= (record.ended_at or 0)
        await events_of(runner, "r")


async def test_run_async_yields_typed_events_and_takes_both_spellings(store: str):
    class Session:
        id = "s"

    class Content:
        parts = (type("Part", (), {"text": "adk"})(),)

    async with Runner(app_name="app", agent=echo, store=store) as runner:
        plain = [event async for event in runner.run_async("draft", session=Session())]
        content = [
            event async for event in runner.run_async(new_message=Content(), session_id="s", user_id="anonymous")
        ]
        assert isinstance(plain[0], RunStartedEvent)
        assert plain[0].thread_id == content[0].thread_id == "s"  # type: ignore[union-attr]  # checked above
        assert "".join(e.delta for e in content if isinstance(e, TextMessageContentEvent)) == "you said adk"


def test_run_blocks_for_code_without_an_event_loop(store: str):
    runner = Runner(echo, store=store)
    for _ in range(2):
        events = list(runner.run("sync", session_id="s"))
        assert "".join(e.delta for e in events if isinstance(e, TextMessageContentEvent)) == "you said sync"


async def test_run_refuses_to_block_an_event_loop():
    runner = Runner(echo)
    with pytest.raises(UsageError, match="run_async"):
        next(iter(runner.run("x")))


async def test_starting_twice_is_one_run(store: str):
    agent = Gated("a")
    async with Runner(agent, store=store) as runner:
        first = await runner.start("x", run_id="r")
        second = await runner.start("x", run_id="r")
        agent.let(2)
        assert (await first.collect()).text == (await second.collect()).text == "a"
        third = await runner.start("x", run_id="r")  # also when it has ended
        assert third.session_id == first.session_id
        assert agent.runs == 1


async def test_many_starts_at_once_are_one_run(store: str):
    calls = 0

    async def counted(message: str) -> str:
        nonlocal calls
        calls += 1
        return "once"

    async with Runner(counted, store=store) as runner:
        runs = await asyncio.gather(*(runner.start("x", run_id="r") for _ in range(10)))
        assert {(await run.collect()).text for run in runs} == {"once"}
        assert calls == 1


@pytest.mark.parametrize("other", [{"message": "y"}, {"session_id": "t"}, {"user_id": "eve"}, {"agent": "b"}])
async def test_another_request_under_the_same_id_is_a_conflict(store: str, other: dict[str, str]):
    async with Runner(agents={"a": echo, "b": echo}, store=store) as runner:
        request = {"message": "x", "session_id": "s", "agent": "a"}
        await (await runner.start(**request, run_id="r")).wait()
        with pytest.raises(RunConflict, match="run r exists") as caught:
            await runner.start(**{**request, **other}, run_id="r")
        assert caught.value.run_id == "r"


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "x" * 97, "é", "a/b", "\x00", ".", ".."])
async def test_ids_have_a_form(bad: str):
    async with Runner(echo) as runner:
        with pytest.raises(InputInvalid, match="run id"):
            await runner.start("x", run_id=bad)
        with pytest.raises(InputInvalid, match="session id"):
            await runner.start("x", session_id=bad)


@pytest.mark.parametrize("empty", ["", [], 5, None, [{"type": "nonsense"}]])
async def test_a_message_has_content(empty: object):
    async with Runner(echo) as runner:
        with pytest.raises(InputInvalid):
            await runner.start(empty)


async def test_parts_reach_the_agent(store: str):
    seen: list[RunContext] = []

    async def look(ctx: RunContext) -> str:
        seen.append(ctx)
        return "ok"

    async with Runner(look, store=store) as runner:
        image = {"type": "image", "source": {"type": "url", "value": "https://example.org/a.png"}}
        await (await runner.start([{"type": "text", "text": "look"}, image], session_id="s")).collect()
        assert seen[0].message == "look"
        assert seen[0].content[1] == ImagePart(source=UrlSource(value="https://example.org/a.png"))
        assert (await runner.messages("s"))[0].content == seen[0].content


async def test_surrogates_and_nul_in_a_message(store: str):
    async with Runner(echo, store=store) as runner:
        run = await runner.start("a\x00\ud800b", session_id="s")
        assert (await run.collect()).text == "you said a\x00\ufffdb"
        assert text_of((await runner.messages("s"))[0].content) == "a\x00\ufffdb"


async def test_unknown_names_say_what_there_is():
    async with Runner(agents={"a": echo, "b": echo}) as runner:
        with pytest.raises(AgentNotFound, match="there are: a, b"):
            await runner.start("x", agent="c")
        with pytest.raises(RunNotFound, match="no run nope"):
            await runner.attach("nope")
        with pytest.raises(SessionNotFound, match="no session nope"):
            await runner.messages("nope")
    with pytest.raises(AgentNotFound, match="no agent is registered"):
        await Runner().start("x")


async def test_a_run_given_no_session_gets_the_same_one_on_every_worker():
    async def agent() -> str:
        return "hi"

    async with Runner(agent) as one, Runner(agent) as other:
        session_ids = {(await runner.start("x", run_id="r", user_id="u")).session_id for runner in (one, other)}
        assert len(session_ids) == 1
        assert (await one.start("x", run_id="r2", user_id="u")).session_id not in session_ids
        assert (await other.start("x", run_id="r2", user_id="v")).session_id not in session_ids


async def test_limits_of_admission():
    agent = Gated("a")
    limits = Limits(runs_active_max=2, runs_active_per_user_max=1, message_chars_max=10)
    async with Runner(agent, limits=limits) as runner:
        with pytest.raises(InputTooLarge, match="message_chars_max=10"):
            await runner.start("x" * 11)
        await runner.start("x", user_id="a")
        with pytest.raises(LimitReached, match="runs_active_per_user_max=1") as caught:
            await runner.start("x", user_id="a")
        assert caught.value.retry_after_s is not None
        await runner.start("x", user_id="b")
        with pytest.raises(LimitReached, match="runs_active_max=2"):
            await runner.start("x", user_id="c")


async def test_agents_are_ready_before_a_server_takes_runs(caplog: pytest.LogCaptureFixture):
    class Heavy:
        name = "heavy"
        ready = False
        failure: Exception = ModelFailed("the file is damaged")

        async def load(self) -> None:
            if self.ready:
                raise self.failure
            self.ready = True

        async def run(self, ctx: RunContext) -> AsyncIterator[str]:
            yield f"ready: {self.ready}"

    agent = Heavy()
    runner = Runner(agent)
    await runner.load()
    async with runner:
        assert (await (await runner.start("x")).collect()).text == "ready: True"
    await runner.load()
    assert "agent heavy is not ready: the file is damaged" in caplog.text
    agent.failure = OSError("what was said")
    await runner.load()
    assert "OSError" in caplog.text
    assert "what was said" not in caplog.text


@pytest.mark.parametrize("user", [5, "", None, "a\nb", "x" * 257, b"ada"])
async def test_a_users_id_is_a_text(user: Any):
    async with Runner(echo) as runner:
        with pytest.raises(InputInvalid, match="user_id"):
            await runner.start("hi", user_id=user)
        with pytest.raises(InputInvalid, match="user_id"):
            await runner.create_session("s", user_id=user)
