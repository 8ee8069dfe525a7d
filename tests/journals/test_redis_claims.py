"""Several requests under one run id at the same instant, in Redis: one run, whatever the order of their steps is.

A run's id and its session are in different hash slots, so no script sees both: what is tested here is the protocol
between the scripts. Each call to the server is held until the schedule lets it go.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gapless import Runner
from gapless.errors import RunConflict, SessionNotFound, StoreUnavailable
from gapless.journals import redis_claims
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import WorkerFenced
from gapless.journals.redis import RedisStore
from gapless.records import RunRecord, RunStatus
from tests.journals.conformance import LEASE_S, Cluster, Worker, a_run
from tests.journals.gate import STEPS_MAX, Gate
from tests.journals.redis_place import Losses, ServerPlace, warm
from tests.support.valkey import Valkey


async def ask(worker: Worker, session_id: str, *, run_id: str = "r", user_id: str = "u") -> RunRecord | None:
    """What the request is answered; None where it is to be made again, or the session is another user's."""
    asked = a_run(run_id, session_id, user_id=user_id, digest=f"asked by {worker.id}")
    try:
        record, created = await worker.store.create_run(asked, reject_busy=False)
    except (StoreUnavailable, WorkerFenced, SessionNotFound):
        return None
    assert not created or record.digest == asked.digest
    return record


async def one_run(
    reader: Worker, session_ids: set[str], answers: Sequence[RunRecord | None], run_id: str = "r"
) -> None:
    """There is one run at most, everyone was answered that one, and nothing of the others is left."""
    found = await reader.store.get_run(run_id)
    for answer in answers:
        if answer is not None:
            assert found is not None
            assert (answer.digest, answer.session_id) == (found.digest, found.session_id)
    listed = [run for session_id in session_ids for run in await reader.store.list_runs(session_id=session_id)]
    assert [(run.digest, run.session_id) for run in listed] == (
        [] if found is None else [(found.digest, found.session_id)]
    )
    for session_id in session_ids:
        session = await reader.store.get_session(session_id)
        assert (session is not None) == (found is not None and found.session_id == session_id)


def with_three_changes() -> Iterator[list[tuple[int, str]]]:
    """One goes some steps, the other some, the first some more; then the other to its end."""
    for first, second, third in itertools.product(range(5), range(10), range(1, 5)):
        yield [(0, "")] * first + [(1, "")] * second + [(0, "")] * third + [(1, "")] * STEPS_MAX


async def test_two_different_requests_under_one_id_at_the_same_instant(
    a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_claims, "CLAIM_PAUSE_S", 0.0)
    for number, schedule in enumerate(with_three_changes()):
        run_id, one, other = f"r{number}", f"one-{number}", f"other-{number}"
        with monkeypatch.context() as patch:
            gate = Gate(patch)
            gate.hold(a, ask(a, one, run_id=run_id))
            gate.hold(b, ask(b, other, run_id=run_id))
            await gate.play(schedule)
        answers = [task.result() for task in gate.tasks.values()]
        assert any(answers), schedule
        await one_run(a, {one, other}, answers, run_id)
        for worker, session_id in ((a, one), (b, other)):  # asked again, the answer is the same
            again = await ask(worker, session_id, run_id=run_id)
            await one_run(worker, {one, other}, [*answers, again], run_id)


async def test_a_request_that_another_users_session_refuses_keeps_the_id_from_nobody(
    a: Worker, b: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_claims, "CLAIM_PAUSE_S", 0.0)
    for number, (schedule, same) in enumerate(itertools.product(with_three_changes(), (True, False))):
        run_id, bobs = f"r{number}", f"bobs-{number}"
        elsewhere = bobs if same else f"elsewhere-{number}"
        await b.create(f"before-{number}", bobs, user_id="bob")
        with monkeypatch.context() as patch:
            gate = Gate(patch)
            gate.hold(a, ask(a, bobs, run_id=run_id, user_id="alice"))
            gate.hold(b, ask(b, elsewhere, run_id=run_id, user_id="bob"))
            await gate.play(schedule)
        (refused, record) = (task.result() for task in gate.tasks.values())
        assert record is not None, schedule
        assert record.user_id == "bob"
        assert refused is None or refused.user_id == "bob"
        found = await a.store.get_run(run_id)
        assert found is not None
        assert (found.user_id, found.session_id) == ("bob", elsewhere)
        assert await a.store.list_runs(user_id="alice") == []


_schedules = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["", "", "", "", "cut before", "cut after"])), max_size=60
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    schedule=_schedules,
    sessions=st.lists(st.sampled_from(["s1", "s2", "s3"]), min_size=2, max_size=4),
    lost=st.integers(0, 3),
)
def test_one_run_in_any_order_of_steps(
    server: Valkey, schedule: list[tuple[int, str]], sessions: list[str], lost: int
) -> None:
    """Two to four requests for one run, into some sessions; answers and calls are lost, and one of the workers is
    taken for dead by another while it goes on."""

    async def play() -> None:
        cluster = Cluster(ServerPlace(server))
        workers = [await cluster.worker(worker_id) for worker_id in "abcd"[: len(sessions)]]
        keeper = await cluster.worker("keeper")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redis_claims, "CLAIM_PAUSE_S", 0.0)
            gate = Gate(patch)
            for worker, session_id in zip(workers, sessions, strict=True):
                gate.hold(worker, ask(worker, session_id))
            for turn, how in schedule[: len(schedule) // 2]:
                await gate.step(turn, how)
            await gate.all_held()
            beating = [worker for number, worker in enumerate(workers) if number != lost]
            taken = await cluster.lapse(keeper, *beating)
            await gate.play(schedule[len(schedule) // 2 :])
            answers = [task.result() for task in gate.tasks.values()]
        await one_run(keeper, set(sessions), answers)
        # Nobody executes it whom nobody believes to be alive: it is somebody's who lives, or handed over to be closed.
        left = [run for runs in taken.values() for run in runs]
        left += [run for worker in (keeper, *beating) for run in await worker.store.take_over(LEASE_S)]
        found = await keeper.store.get_run("r")
        assert len(left) <= 1
        if found is not None:
            alive = {keeper.id, *(worker.id for worker in beating)}
            assert found.owner in alive
        await cluster.close()

    asyncio.run(play())


async def test_of_two_different_requests_one_is_told_of_a_conflict(server: Valkey) -> None:
    """And never that its run does not exist."""
    url = ServerPlace(server).url

    async def agent(message: str) -> AsyncIterator[str]:
        yield message

    async with Runner(agent, store=url) as one, Runner(agent, store=url) as other:
        for number in range(20):
            answers = await asyncio.gather(
                one.start("one", run_id=f"r{number}", session_id=f"one-{number}"),
                other.start("other", run_id=f"r{number}", session_id=f"other-{number}"),
                return_exceptions=True,
            )
            [run] = [answer for answer in answers if not isinstance(answer, BaseException)]
            [refused] = [answer for answer in answers if isinstance(answer, BaseException)]
            assert isinstance(refused, RunConflict)
            assert (await run.collect()).text == run.session_id.partition("-")[0]


# -- answers that are lost, and workers that die halfway ---------------------------------------------------------------


async def test_a_creation_whose_answer_was_lost_may_be_asked_for_again(a: Worker, b: Worker, monkeypatch: Any) -> None:
    await warm(a)
    losses = Losses(a.store, monkeypatch)
    losses.answers = [scripts.CREATE]
    with pytest.raises(StoreUnavailable):
        await a.create("r")
    await a.create("r", reject_busy=True)
    assert not (await a.store.create_run(a_run("r"), reject_busy=False))[1]
    await a.append("r", 1, "1")


async def test_a_creation_whose_answer_was_lost_is_not_left_running(a: Worker, monkeypatch: Any) -> None:
    """Its caller gave up: the run is handed to whoever closes lost ones."""
    await warm(a)
    losses = Losses(a.store, monkeypatch)
    losses.answers = [scripts.CREATE]
    with pytest.raises(StoreUnavailable):
        await a.create("r")
    assert [run.id for run in await a.store.take_over(LEASE_S)] == ["r"]
    assert await a.store.take_over(LEASE_S) == []
    await a.end("r", 1, status=RunStatus.FAILED)
    losses.calls = [scripts.CREATE]
    with pytest.raises(StoreUnavailable):
        await a.create("q")
    assert await a.store.take_over(LEASE_S) == []
    assert await a.store.get_run("q") is None
    await a.create("q")


async def test_a_creation_whose_answer_is_still_to_come_is_not_taken_over(a: Worker, monkeypatch: Any) -> None:
    """Asked twice at once: of the one that has created the run the answer is late, of the other it is lost."""
    await warm(a)
    assert isinstance(a.store, RedisStore)
    call = a.store._server.call
    reached, both, created, late = (asyncio.Event() for _ in range(4))

    async def slow(script: scripts.Script, *arguments: Any) -> Any:
        if script is not scripts.CREATE:
            return await call(script, *arguments)
        is_first = not reached.is_set()
        (reached if is_first else both).set()
        await (both if is_first else created).wait()
        answer = await call(script, *arguments)
        created.set()
        if is_first:
            await late.wait()
            return answer
        raise StoreUnavailable("cut before the answer")

    monkeypatch.setattr(a.store._server, "call", slow)
    first = asyncio.create_task(a.store.create_run(a_run("r"), reject_busy=False))
    await reached.wait()
    with pytest.raises(StoreUnavailable):
        await a.store.create_run(a_run("r"), reject_busy=False)
    assert await a.store.take_over(LEASE_S) == []
    late.set()
    assert (await first)[1]
    assert await a.store.take_over(LEASE_S) == []
    assert not (await a.store.create_run(a_run("r"), reject_busy=False))[1]
    await a.append("r", 1, "1")


async def test_a_run_that_another_worker_creates_meanwhile_does_not_stand_in_its_own_way(
    a: Worker, b: Worker, monkeypatch: Any
) -> None:
    assert isinstance(a.store, RedisStore)
    command = a.store._server.command
    created: list[Any] = []

    async def late(*arguments: Any, **options: Any) -> Any:
        answer = await command(*arguments, **options)
        if arguments[0] == "GET" and not created:
            created.append(await b.create("r", reject_busy=True))
        return answer

    monkeypatch.setattr(a.store._server, "command", late)
    record, is_new = await a.store.create_run(a_run("r"), reject_busy=True)
    assert (record.id, record.owner, is_new) == ("r", b.id, False)


async def test_a_worker_that_dies_while_it_creates_leaves_nothing_in_the_way(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any
) -> None:
    await warm(a)
    for run_id, lost in (("r1", "REGISTER_RUN"), ("r2", "CREATE")):
        Losses(a.store, monkeypatch).calls.append(getattr(scripts, lost))
        with pytest.raises(StoreUnavailable):
            await a.create(run_id, "s")
    await b.create("r1", "elsewhere")
    await b.create("r2", "elsewhere")
    await cluster.crash(a)
    assert await b.store.list_runs(session_id="s") == []
    assert (await cluster.lapse(b))["b"] == []
    await b.create("r3", "s", reject_busy=True)
    assert {run.id for run in await b.store.list_runs(status=RunStatus.QUEUED)} == {"r1", "r2", "r3"}


async def test_a_creator_that_was_taken_for_dead_creates_nothing(
    cluster: Cluster, a: Worker, b: Worker, monkeypatch: Any
) -> None:
    """It stops between its two steps, is fenced, and wakes up."""
    await warm(a)
    assert isinstance(a.store, RedisStore)
    execute = a.store._server._client.execute_command
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def sleepy(*arguments: Any, **options: Any) -> Any:
        if scripts.CREATE.sha in arguments:
            asleep.set()
            await awake.wait()
        return await execute(*arguments, **options)

    monkeypatch.setattr(a.store._server._client, "execute_command", sleepy)
    creating = asyncio.create_task(a.create("r"))
    await asleep.wait()
    assert (await cluster.lapse(b))["b"] == []
    awake.set()
    with pytest.raises(WorkerFenced):
        await creating
    assert await b.store.get_run("r") is None
    await b.create("r", reject_busy=True)
