"""Two replicas on one store: whichever a client reaches, it sees and does the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import pytest

from gapless import RunConfig
from gapless.client import GaplessClient
from gapless.errors import InputInvalid, RunConflict, SessionBusy
from gapless.events import (
    ResumeEntry,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    UserMessage,
    text_of,
)
from gapless.records import RunStatus
from gapless.runs.worker import LEFT_S
from tests.support.following import merged, rest_of, text_in, text_to
from tests.support.processes import Server, Talks, client_of
from tests.support.waiting import until

RACES = 20


class Replicas(NamedTuple):
    """Two servers."""

    a: Server
    b: Server


@pytest.fixture(scope="module")
def replicas(start: Callable[..., list[Server]]) -> Replicas:
    return Replicas(*start(count=2))


@pytest.fixture
async def a(replicas: Replicas) -> AsyncIterator[GaplessClient]:
    async with client_of(replicas.a.url) as client:
        yield client


@pytest.fixture
async def b(replicas: Replicas) -> AsyncIterator[GaplessClient]:
    async with client_of(replicas.b.url) as client:
        yield client


def said(messages: list[object]) -> list[str]:
    return [
        text_of(message.content) if isinstance(message, UserMessage) else str(getattr(message, "content", ""))
        for message in messages
    ]


async def test_a_run_of_one_replica_is_followed_live_on_the_other(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    run = await a.start(name)
    follower = b.follow(run.id)
    seen = []
    for number in range(30):  # in lockstep: the next word is said when this one has arrived
        talks.say(name, f"w{number}")
        seen += await text_to(follower, f"w{number} ")
    talks.say(name, "end")
    seen += await rest_of(follower)
    page = await a.page(run.id)
    assert [seq for seq, _ in seen] == list(range(1, page.last_seq + 1)), "each once and in order"
    assert [event for _, event in seen] == page.events
    assert text_in(seen) == "".join(f"w{number} " for number in range(30))


async def test_a_run_is_cancelled_through_another_replica(
    a: GaplessClient, b: GaplessClient, replicas: Replicas, talks: Talks, name: str
):
    run = await a.start(name)
    on_a, on_b = a.follow(run.id), b.follow(run.id)
    talks.say(name, "so", "far")
    seen = await text_to(on_b, "far ")
    await b.cancel(run.id)
    seen += await rest_of(on_b)
    end = seen[-1][1]
    assert isinstance(end, RunFinishedEvent)
    assert isinstance(end.outcome, RunFinishedCancelledOutcome)
    assert merged(await rest_of(on_a)) == merged(seen)
    (stopped,) = talks.log("stopped", run.id)
    assert stopped.pid == replicas.a.pid, "the agent itself was stopped, where it ran"
    assert [(await client.record(run.id)).status for client in (a, b)] == [RunStatus.CANCELLED] * 2
    assert said(await b.messages(run.session_id)) == [name, "so far "], "what was shown is kept"
    assert (await a.cancel(run.id)).status is RunStatus.CANCELLED, "and again it does nothing"


async def test_a_run_that_ends_with_its_last_reader_counts_those_of_every_replica(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    run = await a.start(name, config=RunConfig(on_disconnect="cancel"))
    on_a, on_b = a.follow(run.id), b.follow(run.id)
    talks.say(name, "so")
    await text_to(on_a, "so ")
    await text_to(on_b, "so ")
    await on_a.aclose()
    left_at = time.monotonic()
    while time.monotonic() < left_at + 5 * LEFT_S:
        talks.say(name, "far")
        await text_to(on_b, "far ")
    await on_b.aclose()

    async def ended() -> RunStatus | None:
        status = (await a.record(run.id)).status
        return status if status.ended else None

    assert await until(ended, "ended") is RunStatus.CANCELLED


async def test_a_run_that_waits_is_answered_through_another_replica(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    run = await a.start(name)
    talks.say(name, "first", "ask", "then", "end")
    seen = await rest_of(b.follow(run.id))  # this wire's streams end where the run waits
    pause = seen[-1][1]
    assert isinstance(pause, RunFinishedEvent)
    assert isinstance(pause.outcome, RunFinishedInterruptOutcome)
    waiting = (await b.runs(status=RunStatus.WAITING))[0]
    assert (waiting.id, waiting.status) == (run.id, RunStatus.WAITING)
    await b.answer(run.id, [ResumeEntry(interrupt_id="i", status="resolved", payload=True)])
    seen += await rest_of(b.follow(run.id, seen[-1][0]))
    page = await a.page(run.id)
    assert merged(seen) == merged(list(enumerate(page.events, 1)))
    assert text_in(seen) == "first resolved then "
    assert isinstance(seen[-1][1], RunFinishedEvent)
    assert isinstance(seen[-1][1].outcome, RunFinishedSuccessOutcome)
    with pytest.raises(InputInvalid, match="waits for no answer"):
        await b.answer(run.id, [ResumeEntry(interrupt_id="i", status="resolved")])


async def test_what_is_active_on_one_replica_is_listed_on_the_other(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    run = await a.start(name, session_id=name)
    assert [one.id for one in await b.runs(session_id=name)] == [run.id]
    assert run.id in [one.id for one in await b.runs()]
    assert (await b.session(name)).active_run_id == run.id
    assert [one.active_run_id for one in await b.sessions() if one.id == name] == [run.id]
    talks.say(name, "end")
    await rest_of(b.follow(run.id))
    assert (await b.session(name)).active_run_id is None
    assert (await b.runs(session_id=name))[0].status is RunStatus.FINISHED


async def test_a_session_moves_between_replicas(a: GaplessClient, b: GaplessClient, talks: Talks, name: str):
    talks.say(name, "hello", "count", "end")
    told = []
    for client, other in ((a, b), (b, a), (a, b)):
        run = await client.start(name, session_id=name)
        seen = await rest_of(other.follow(run.id))
        told.append(text_in(seen))
        assert await client.messages(name) == await other.messages(name)
    assert told == ["hello 1 ", "hello 2 ", "hello 3 "], "each turn knew those before it"
    assert said(await b.messages(name)) == [name, "hello 1 ", name, "hello 2 ", name, "hello 3 "]
    await b.delete_session(name)
    assert await a.runs(session_id=name) == []


async def test_turns_of_a_session_wait_for_each_other_across_replicas(
    a: GaplessClient, b: GaplessClient, replicas: Replicas, talks: Talks, name: str
):
    queued = RunConfig(on_busy="queue")
    runs = [
        await client.start(f"{name}-{number}", session_id=name, config=queued)
        for number, client in enumerate((a, b, a, b))
    ]
    for number in (3, 2, 1, 0):  # whoever does not wait for his turn would be through at once
        talks.say(f"{name}-{number}", "count", "end")
    texts = [text_in(await rest_of(a.follow(run.id))) for run in runs]
    assert texts == ["1 ", "2 ", "3 ", "4 "]
    began = [line for line in talks.log("began") if line.talk.startswith(f"{name}-")]
    assert [line.run_id for line in began] == [run.id for run in runs]
    assert [line.pid for line in began] == [replicas.a.pid, replicas.b.pid] * 2, "each where it was asked for"


async def test_a_busy_session_is_refused_on_the_other_replica(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    run = await a.start(name, session_id=name)
    with pytest.raises(SessionBusy, match=run.id):
        await b.start("and", session_id=name)
    talks.say(name, "end")
    await rest_of(b.follow(run.id))
    talks.say("and", "end")
    assert text_in(await rest_of(a.follow((await b.start("and", session_id=name)).id))) == ""


async def test_a_new_turn_interrupts_the_other_replicas(a: GaplessClient, b: GaplessClient, talks: Talks, name: str):
    first = await a.start(f"{name}-1", session_id=name)
    talks.say(f"{name}-1", "half")
    await text_to(b.follow(first.id), "half ")
    second = await b.start(f"{name}-2", session_id=name, config=RunConfig(on_busy="interrupt"))
    talks.say(f"{name}-2", "count", "end")
    assert text_in(await rest_of(a.follow(second.id))) == "2 "
    assert (await b.record(first.id)).status is RunStatus.CANCELLED
    assert said(await a.messages(name)) == [f"{name}-1", "half ", f"{name}-2", "2 "]


async def test_turns_are_in_the_order_in_which_they_began_and_withdrawn_ones_are_none(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    first = await a.start(f"{name}-1", session_id=name)
    talks.say(f"{name}-1", "half")
    await text_to(b.follow(first.id), "half ")
    queued = await b.start(f"{name}-2", session_id=name, config=RunConfig(on_busy="queue"))
    third = await a.start(f"{name}-3", session_id=name, config=RunConfig(on_busy="interrupt"))
    talks.say(f"{name}-3", "count", "end")
    assert text_in(await rest_of(b.follow(third.id))) == "2 "
    assert (await a.record(queued.id)).status is RunStatus.CANCELLED
    assert said(await b.messages(name)) == [f"{name}-1", "half ", f"{name}-3", "2 "]


async def test_the_same_run_started_on_both_replicas_at_once_is_one_run(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    talks.say(name, "once", "end")
    for number in range(RACES):
        run_id = f"{name}-{number}"
        session_id = run_id if number % 2 else None
        run, same = await asyncio.gather(
            *(client.start(name, session_id=session_id, run_id=run_id) for client in (a, b))
        )
        assert (run.id, run.session_id) == (same.id, same.session_id)
        on_a, on_b = await asyncio.gather(rest_of(a.follow(run_id)), rest_of(b.follow(run_id)))
        assert text_in(on_a) == text_in(on_b) == "once "
        assert len(talks.log("began", run_id)) == 1, "one call of the agent"


async def test_different_requests_under_one_run_id_are_a_conflict_for_one_of_them(
    a: GaplessClient, b: GaplessClient, talks: Talks, name: str
):
    for number in range(RACES):
        run_id = f"{name}-{number}"
        talks.say(f"{run_id}-a", "end")
        talks.say(f"{run_id}-b", "end")
        outcomes = await asyncio.gather(
            *(
                client.start(f"{run_id}-{letter}", session_id=name, run_id=run_id)
                for client, letter in ((a, "a"), (b, "b"))
            ),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [RunConflict.__name__, "RunRecord"]
        await rest_of(b.follow(run_id))
        assert len(talks.log("began", run_id)) == 1
