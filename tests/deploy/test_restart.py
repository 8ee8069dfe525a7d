"""Rolling restarts: one server after the other is told to end, and nobody who follows notices."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from gapless.records import RunStatus
from tests.support.balancer import Balancer
from tests.support.following import Audience, check_all_saw_the_whole, rest_of, text_in
from tests.support.processes import Server, Talks, client_of
from tests.support.waiting import until

RUNS = 8
DRAIN = ("--drain", "60")
"""Far more than a slow machine takes until the test lets the answers end."""
LONG_LEASE = {"GAPLESS_TEST_LEASE_S": "60"}


async def test_a_rolling_restart_of_two_replicas_loses_nothing(
    start: Callable[..., list[Server]], talks: Talks, name: str
):
    a, b = start(*DRAIN, count=2, environment=LONG_LEASE)
    async with Balancer([a.url, b.url]) as balancer:
        runs = []
        for _ in range(RUNS):  # a connection each, so that they are spread
            async with client_of(balancer.url) as client:
                runs.append((await client.start(name)).id)
        audience = Audience(balancer.url, runs)
        talks.say(name, "one")
        await audience.has_heard("one ")
        began = {line.pid for line in talks.log("began") if line.run_id in runs}
        assert began == {a.pid, b.pid}, "both execute some"

        a.signal(signal.SIGTERM)
        await until(lambda: a.drains() == 1, "it lets its runs end, and serves who reads them")
        talks.say(name, "two")
        await audience.has_heard("two ")
        assert a.process is not None
        assert a.process.poll() is None, "its runs go on"
        async with client_of(balancer.url) as client:
            late = await client.start(name, run_id=f"{name}-late")  # and new ones begin elsewhere
        talks.say(name, "three", "end")
        await audience.end()
        assert await asyncio.to_thread(a.wait) == 0
        async with client_of(b.url) as client:
            assert text_in(await rest_of(client.follow(late.id))) == "one two three "
        assert talks.log("began", late.id)[0].pid == b.pid

        a.start()  # a second server takes over
        name = f"{name}-again"
        runs = []
        for _ in range(RUNS):
            async with client_of(balancer.url) as client:
                runs.append((await client.start(name)).id)
        second = Audience(balancer.url, runs)
        talks.say(name, "four")
        await second.has_heard("four ")
        b.signal(signal.SIGTERM)
        await until(lambda: b.drains() == 1, "so does the other")
        talks.say(name, "five", "end")
        await second.end()
        assert await asyncio.to_thread(b.wait) == 0
        await check_all_saw_the_whole(audience, a, "one two three ")
        await check_all_saw_the_whole(second, a, "four five ")
    a.close()


async def test_what_a_replica_cannot_finish_in_time_is_closed_and_said(
    start: Callable[..., list[Server]], talks: Talks, name: str
):
    a, b = start("--drain", "0.2", count=2)
    async with client_of(a.url) as client:
        run = await client.start(name, session_id=name)
    audience = Audience(b.url, [run.id])
    talks.say(name, "shown")
    await audience.has_heard("shown ")
    assert await asyncio.to_thread(a.terminate) == 0
    await audience.end()
    async with client_of(b.url) as client:
        record = await client.record(run.id)
        assert record.status is RunStatus.FAILED
        assert record.error is not None
        assert record.error["code"] == "shutting_down"
        kept = (await client.messages(name))[-1]
    assert getattr(kept, "content", None) == "shown ", "what was shown is kept"
    b.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_workers_of_one_server_are_ended_or_replaced_in_order(
    start: Callable[..., list[Server]], talks: Talks, name: str, number: signal.Signals
):
    (server,) = start("--workers", "2", *DRAIN, environment=LONG_LEASE)
    before = server.workers()
    audiences: dict[str, Audience] = {}
    for worker in before:  # each executes some and is followed, or nobody would notice that it is told to end
        talk = f"{name}-{worker}"
        with server.alone(worker):
            async with client_of(server.url) as client:
                runs = [(await client.start(talk)).id for _ in range(RUNS // len(before))]
            audiences[talk] = Audience(server.url, runs)
            talks.say(talk, "one")
            await audiences[talk].has_heard("one ")
            assert {line.pid for line in talks.log("began") if line.run_id in runs} == {worker}

    async def end_when_told(place: int, talk: str) -> None:
        await until(lambda: server.drains() > place, "the worker is told")
        talks.say(talk, "two", "end")

    server.signal(number)  # they are told at once, or one after the other's answers have ended
    await asyncio.gather(*(end_when_told(place, talk) for place, talk in enumerate(audiences)))
    for audience in audiences.values():
        await audience.end()
        assert not audience.cuts, "who reads is served to the end"
    if number == signal.SIGHUP:  # new processes in the place of the old ones, on the same socket
        for audience in audiences.values():
            await check_all_saw_the_whole(audience, server, "one two ")
        await until(
            lambda: len(workers := set(server.workers())) == len(before) and not workers & set(before), "new workers"
        )
        assert await asyncio.to_thread(server.terminate) == 0
        return
    assert await asyncio.to_thread(server.wait) == 0
    (after,) = start()
    async with client_of(after.url) as client:
        for run_id in (run_id for audience in audiences.values() for run_id in audience.seen):
            assert text_in(await rest_of(client.follow(run_id))) == "one two "
    after.close()
