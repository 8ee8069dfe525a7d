"""What ADK's next turn is given, however the turns before it ended."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from google.adk.events import Event as ADKEvent
from google.adk.sessions import InMemorySessionService
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.adk.tools import ToolContext
from google.genai import types

from gapless import Runner
from gapless.agents import adk_sessions
from gapless.errors import ModelFailed, UsageError
from gapless.events import (
    AssistantMessage,
    RunErrorEvent,
    RunFinishedEvent,
    StateDeltaEvent,
    UserMessage,
)
from gapless.records import RunStatus, Turn
from tests.support.adk import Call, Raises, Thought, contents
from tests.support.adk_runs import TALK_CALL_TALK, add, agent_of, all_of, ask, results, text_of
from tests.support.waiting import at_rest

pytestmark = pytest.mark.both_ways


async def test_state_goes_on_from_turn_to_turn():
    def count(tool_context: ToolContext) -> int:
        """Counts."""
        tool_context.state["n/a"] = tool_context.state.get("n/a", 0) + 1
        tool_context.state["temp:x"] = object()
        return int(tool_context.state["n/a"])

    async with Runner(agent_of([Call("count")], ["ok"], [Call("count")], ["ok"], tools=[count])) as runner:
        first = await all_of(await runner.start("go", session_id="s", state={"kept": True}))
        assert [e.delta for e in first if isinstance(e, StateDeltaEvent)] == [
            [{"op": "add", "path": "/n~1a", "value": 1}]
        ]
        second = await all_of(await runner.start("go", session_id="s"))
        assert results(second) == [{"result": 2}]
        assert (await runner.get_session("s")).state == {"kept": True, "n/a": 2}


async def test_the_model_sees_the_earlier_turns(tmp_path: Any):
    store = f"sqlite:///{tmp_path}/gapless.db"
    async with Runner(agent_of(*TALK_CALL_TALK, tools=[add]), store=store) as runner:
        await (await runner.start("add 2 and 3", session_id="s")).collect()
    second = agent_of(["You asked for a sum."], tools=[add])
    async with Runner(second, store=store) as runner:  # another process would find the same
        await (await runner.start("what did I ask?", session_id="s")).collect()
    assert contents(second.model.requests[0]) == [
        ("user", "add 2 and 3"),
        ("model", "I will add. "),
        ("model", "call add"),
        ("user", "result add {'sum': 5}"),
        ("model", "It is 5."),
        ("user", "what did I ask?"),
    ]


async def test_a_history_that_the_client_keeps_is_used():
    agent = agent_of(["ok"])
    messages = [UserMessage(id="1", content="I am Ada"), AssistantMessage(id="2", content="Hello Ada")]
    await ask(agent, "who am I?", messages=messages)
    assert contents(agent.model.requests[0]) == [
        ("user", "I am Ada"),
        ("model", "Hello Ada"),
        ("user", "who am I?"),
    ]


async def test_a_session_service_of_the_user_is_kept_in_step(tmp_path: Any):
    service = SqliteSessionService(f"{tmp_path}/adk.db")
    await service.create_session(app_name="desk", user_id="ada", session_id="s", state={"plan": "gold"})
    agent = agent_of(["You have {plan}."])
    async with Runner(agent, app_name="desk", session_service=service) as runner:
        for _ in range(2):
            await (await runner.start("hi", user_id="ada", session_id="s")).collect()
    session = await service.get_session(app_name="desk", user_id="ada", session_id="s")
    assert session is not None
    assert [event.author for event in session.events] == ["user", "helper", "user", "helper"]
    async with Runner(agent, app_name="desk", session_service=service) as runner:
        await runner.create_session("s", user_id="ada", agent="desk")
        await runner.delete_session("s")
    assert await service.get_session(app_name="desk", user_id="ada", session_id="s") is None
    with pytest.raises(UsageError):
        Runner(lambda message: "x", session_service=service)


@pytest.mark.parametrize("own", [False, True])
async def test_cancelled_at_any_point_the_next_turn_works(own: bool):
    """Stops the model before each of its steps, cancels there, and asks again."""
    steps = sum(len(script) + 1 for script in TALK_CALL_TALK)
    for at in range(steps):
        agent = agent_of(*TALK_CALL_TALK, ["Later."], tools=[add], hold_at=at)
        model = agent.model
        service = InMemorySessionService()
        async with Runner(agent, session_service=service if own else None) as runner:
            run = await runner.start("add 2 and 3", session_id="s")
            while not (model.running and model.at == at):
                await asyncio.sleep(0)
            await at_rest()  # what it has said reaches the journal
            await run.cancel()
            record = await run.wait()
            assert record.status is RunStatus.CANCELLED
            assert model.running == 0, "the model call was not stopped"
            events = await all_of(run)
            assert sum(isinstance(event, RunFinishedEvent | RunErrorEvent) for event in events) == 1
            shown = text_of(events)
            model._options.clear()
            answer = await (await runner.start("go on", session_id="s")).collect()
            assert answer.text
            sent = contents(model.requests[-1])
            assert shown in "".join(text for role, text in sent if role == "model" and text != "call add"), at
            assert ("user", "add 2 and 3") in sent
            if own:
                session = await service.get_session(app_name="helper", user_id="anonymous", session_id="s")
                assert session is not None
                assert any(event.error_code == "INVOCATION_ABORTED" for event in session.events)


@pytest.mark.parametrize("own", [False, True])
async def test_cancelled_after_any_event_the_next_turn_works(own: bool):
    """Cancels when a follower has seen the n-th event, also while the tool runs, and asks again."""

    async def slow(a: int, b: int) -> dict[str, int]:
        """Adds, in its own time."""
        await asyncio.sleep(0.005)
        return {"sum": a + b}

    talk = ([Thought("Let me see."), "I will add. ", Call("slow", {"a": 2, "b": 3})], ["It is 5."], ["Later."])
    statuses, at = [], 0
    cancelled = True
    while cancelled:
        agent = agent_of(*talk, tools=[slow])
        async with Runner(agent, session_service=InMemorySessionService() if own else None) as runner:
            run = await runner.start("add 2 and 3", session_id="s")
            seen = 0
            async for _ in run.events():
                seen += 1
                if seen > at:
                    await run.cancel()
                    break
            else:
                cancelled = False
            statuses.append((await run.wait()).status)
            assert agent.model.running == 0
            shown = text_of(await all_of(run))
            assert (await (await runner.start("go on", session_id="s")).collect()).text
            sent = contents(agent.model.requests[-1])
            assert shown in "".join(text for role, text in sent if role == "model" and text != "call slow")
            asked = [text for _, text in sent if text.startswith("call ")]
            assert len(asked) == sum(text.startswith("result ") for _, text in sent), "a call without its result"
        at += 1
    assert set(statuses) == {RunStatus.CANCELLED, RunStatus.FINISHED}
    assert at > 10


async def test_text_before_a_failure_stays_in_the_session():
    agent = agent_of(["Half an ", "answer", Raises(ConnectionError("reset"))], ["Again."])
    async with Runner(agent) as runner:
        run = await runner.start("hi", session_id="s")
        with pytest.raises(ModelFailed) as caught:
            await run.collect()
        assert caught.value.text == "Half an answer"
        assert (await (await runner.start("again", session_id="s")).collect()).text == "Again."
    assert ("model", "Half an answer") in contents(agent.model.requests[-1])


async def test_a_turn_whose_native_form_is_lost_is_rebuilt_from_its_messages(monkeypatch: pytest.MonkeyPatch):
    agent = agent_of(*TALK_CALL_TALK, ["ok"], tools=[add])
    async with Runner(agent) as runner:
        await (await runner.start("add 2 and 3", session_id="s")).collect()
        kept = await runner.store.turns("s")

        async def turns(session_id: str) -> list[Turn]:
            return [msgspec.structs.replace(turn, native=None) for turn in kept]

        monkeypatch.setattr(runner.store, "turns", turns)
        await (await runner.start("and?", session_id="s")).collect()
    sent = contents(agent.model.requests[-1])
    assert ("model", "call add") in sent
    assert ("user", "result add {'sum': 5}") in sent
    assert [text for role, text in sent if role == "model" and text != "call add"] == ["I will add. ", "It is 5."]


def test_turns_are_kept_decoded_within_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adk_sessions, "TURN_EVENTS_MAX", 3)
    sessions = adk_sessions.JournalSessions()
    event = ADKEvent(author="user", content=types.UserContent("hi"))
    natives = [adk_sessions.encode_turn(f"r{n}", [event, event]) for n in range(4)]
    first = sessions.turn(natives[0])
    assert first is not None
    assert first[0] == "r0"
    assert first[1][0].id == event.id
    assert sessions.turn(natives[0]) is first
    for native in natives:
        sessions.turn(native)
    assert sessions.turn(natives[0]) is not first
    assert len(sessions._turns) == 1
    assert sessions.turn(b"[]") is None


def test_turns_are_kept_decoded_within_their_bytes(monkeypatch: pytest.MonkeyPatch):
    sessions = adk_sessions.JournalSessions()
    natives = [
        adk_sessions.encode_turn(f"r{n}", [ADKEvent(author="user", content=types.UserContent("x" * size))])
        for n, size in enumerate((1000, 1000, 1000, 10_000))
    ]
    longest = max(map(len, natives[:3]))  # each has its own time, which differs in length
    monkeypatch.setattr(adk_sessions, "TURN_BYTES_MAX", 2 * longest)
    for native in natives:
        assert sessions.turn(native) is not None
    assert [run_id for run_id, _ in sessions._turns.values()] == ["r1", "r2"], "one over the bound is not kept at all"
