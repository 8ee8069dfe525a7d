"""Thousands of schedules keep the invariants, and the simulation would notice if they did not.

A failing schedule names its seed. `python -m pytest tests/simulation -s --seed N` runs it again, with its trace;
`GAPLESS_SIMULATION_SCHEDULES=1000000` runs more of them.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import pytest

import gapless.runs.keeper
from gapless import RunConfig
from gapless.events import ResumeEntry
from gapless.fold import Fold
from gapless.journals.contract import Append, WorkerFenced
from gapless.journals.journal import Journal, Journals
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from gapless.runs.execution import Execution
from gapless.runs.questions import Questions
from gapless.runs.recorder import Recorder
from gapless.runs.sessions import Sessions
from gapless.runs.worker import Worker
from tests.simulation import world as simulated_world
from tests.simulation.agents import Plan
from tests.simulation.faulty import FaultyStore
from tests.simulation.world import World, failing_seed, run_schedule, simulated

SCHEDULES = int(os.environ.get("GAPLESS_SIMULATION_SCHEDULES", "10000"))
SHARD = 250
"""So many of them are a test."""
TRACE_LINES_MAX = 400
PLANTED_SEEDS_MAX = 2_000
"""A planted bug is found within so many schedules."""


def show(seed: int) -> str:
    with simulated():
        world = run_schedule(seed, trace=True)
    lines = world.traced[-TRACE_LINES_MAX:]
    return "\n".join([f"seed {seed}: {world.violation or 'all is well'}", *lines])


def shards(seed: int | None) -> list[range]:
    """The seeds of each test, or only the one that was asked for."""
    if seed is not None:
        return [range(seed, seed + 1)]
    return [range(start, min(start + SHARD, SCHEDULES)) for start in range(0, SCHEDULES, SHARD)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        found = shards(metafunc.config.getoption("seed", None))
        metafunc.parametrize("seeds", found, ids=[f"{seeds[0]}-{seeds[-1]}" for seeds in found])


@pytest.mark.timeout(900)
def test_every_schedule_keeps_the_invariants(seeds: range, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("seed", None) is not None:
        print(show(seeds[0]))
    elif os.environ.get("GAPLESS_SIMULATION_RANDOM"):
        first = secrets.randbelow(10**9)
        seeds = range(first, first + len(seeds))
    found = failing_seed(seeds)
    if found is not None:
        pytest.fail(f"{show(found[0])}\n\nagain: python -m pytest tests/simulation -s --seed {found[0]}", pytrace=False)


def test_a_seed_is_the_same_schedule_each_time() -> None:
    with simulated():
        for seed in range(40):
            first, second = run_schedule(seed, trace=True), run_schedule(seed, trace=True)
            assert first.traced == second.traced
            assert len(first.traced) > 20


async def lose_a_worker(world: World, at_s: float, *, stopped: bool) -> float:
    """How long the run of a worker that is killed, or stopped, is still open."""
    workers = []
    for _ in range(3):
        workers.append(world.start_worker())
        await asyncio.sleep(world.rng.random())  # none looks when another one renews
    plan = world.plans["r"] = Plan("r", "s", "scripted", [("say", "x "), ("forever",)], RunConfig())
    while not all(worker.runner._open for worker in workers):
        await asyncio.sleep(0.01)
    start = workers[0].runner.start("go", agent="scripted", run_id="r", session_id="s", config=plan.config)
    await asyncio.wait({workers[0].spawn(start, world.loop)})
    await asyncio.sleep(at_s)
    lost_at = world.loop.time()
    if stopped:
        workers[0].paused = True
    else:
        world.crash(workers[0])
    run = world.ledger.memory.runs["r"]
    while not run.status.ended:
        await asyncio.sleep(0.001)
    assert world.ledger.taken["r"] == 1
    assert run.error is not None
    assert run.error["code"] == "worker_lost"
    took_s = world.loop.time() - lost_at
    for worker in list(world.workers):
        world.crash(worker)
    await asyncio.sleep(1)
    return took_s


@pytest.mark.parametrize("stopped", [False, True], ids=["killed", "stopped"])
def test_a_lost_workers_run_is_closed_within_its_lease_and_a_second(
    stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lease that is the default, wherever in its beat it is lost."""
    monkeypatch.setattr(simulated_world, "LEASE_S", gapless.runs.keeper.LEASE_S)
    with simulated():
        for tenths in range(100, 150):
            world = simulated_world._world = World(tenths)
            try:
                took_s = world.loop.run_until_complete(lose_a_worker(world, tenths / 10, stopped=stopped))
            finally:
                world.loop.close()
            assert took_s < gapless.runs.keeper.LEASE_S + 1


# -- bugs that are planted, one by one ---------------------------------------------------------------------------------


def deliver_before_the_store_has_accepted(patch: pytest.MonkeyPatch) -> None:
    append = Journal.append

    def early(journal: Journal, event: bytes) -> None:
        append(journal, event)
        journal._window.append(event)
        journal._wake()

    patch.setattr(Journal, "append", early)


def take_appends_of_fenced_workers(patch: pytest.MonkeyPatch) -> None:
    append = MemoryStore.append

    async def unfenced(store: MemoryStore, batches: Sequence[Append]) -> Collection[str]:
        memory, me = store._memory, store._worker_id
        fenced = me not in memory.beats
        memory.beats.setdefault(me, 0)
        for batch in batches:
            run = memory.runs.get(batch.run_id)
            if run is not None and run.last_seq + 1 == batch.first_seq:
                run.owner = me
        try:
            return await append(store, batches)
        finally:
            if fenced:
                del memory.beats[me]

    patch.setattr(MemoryStore, "append", unfenced)


def end_twice(patch: pytest.MonkeyPatch) -> None:
    end = Execution._end

    def twice(execution: Execution, failure: Any) -> None:
        end(execution, failure)
        end(execution, failure)

    patch.setattr(Execution, "_end", twice)


def leave_a_hole_between_replay_and_live(patch: pytest.MonkeyPatch) -> None:
    def from_the_window(journal: Journal, after: int, limit: int = 3) -> list[bytes] | None:
        start = max(0, after + 1 - journal._first)
        return journal._window[start : start + limit] or None

    patch.setattr(Journal, "at_hand", from_the_window)


def lose_wakeups(patch: pytest.MonkeyPatch) -> None:
    def wake(journal: Journal) -> None:
        waiters, journal._waiters = journal._waiters, {}
        for waiter in list(waiters)[:1]:
            if not waiter.done():
                waiter.set_result(None)

    patch.setattr(Journal, "_wake", wake)


def attach_without_watching_first(patch: pytest.MonkeyPatch) -> None:
    async def look(journals: Journals, journal: Journal) -> bool:
        record = await journals.store.get_run(journal.run_id)
        await journals.store.watch(journal.run_id)
        if record is not None and not journal.owned:
            journal._catch_up(record.last_seq + 1, [], record.status.ended)
        return record is not None

    patch.setattr(Journals, "_look", look)


def deliver_again_after_a_retry(patch: pytest.MonkeyPatch) -> None:
    def catch_up(journal: Journal, first_seq: int, events: list[bytes], closed: bool) -> None:
        if first_seq > journal.last + 1:
            journal._window.clear()
            journal._first, journal.last = first_seq, first_seq - 1
        journal._advance(events, closed)

    patch.setattr(Journal, "_catch_up", catch_up)


def end_without_a_turn(patch: pytest.MonkeyPatch) -> None:
    end = Memory.end

    def without(memory: Memory, run: RunRecord, batch: Append) -> None:
        end(memory, run, batch)
        if run.status.value == "failed":
            memory.turns[run.session_id].pop()

    patch.setattr(Memory, "end", without)


def forget_what_was_shown(patch: pytest.MonkeyPatch) -> None:
    end = Memory.end

    def shortened(memory: Memory, run: RunRecord, batch: Append) -> None:
        end(memory, run, batch)
        turn = memory.turns[run.session_id][-1]
        messages = msgspec.json.decode(turn.messages)
        if run.status.value == "cancelled" and messages[-1]["role"] == "assistant":
            messages[-1]["content"] = ""
            turn.messages = msgspec.Raw(msgspec.json.encode(messages))

    patch.setattr(Memory, "end", shortened)


def start_again_when_asked_again(patch: pytest.MonkeyPatch) -> None:
    create_run = MemoryStore.create_run

    async def always(store: MemoryStore, run: RunRecord, **more: Any) -> tuple[RunRecord, bool]:
        record, created = await create_run(store, run, **more)
        return record, created or (record.last_seq == 0 and record.status.value in ("queued", "running"))

    patch.setattr(MemoryStore, "create_run", always)


def hold_nothing_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "full", property(lambda journal: False, lambda journal, full: None))


def let_runs_of_a_session_overtake(patch: pytest.MonkeyPatch) -> None:
    async def at_once(sessions: Sessions, record: RunRecord, config: RunConfig) -> None:
        store: Any = sessions._store
        ahead = await store.start_run(record.id, 1)
        if ahead is not None:
            store.ledger.memory.session_runs[record.session_id] = {record.id: None}
            await store.start_run(record.id, 1)
        record.started_at, record.status = 1, RunStatus.RUNNING

    patch.setattr(Sessions, "take_turn", at_once)


def leave_dead_workers_runs(patch: pytest.MonkeyPatch) -> None:
    async def nothing(store: MemoryStore, lease_s: float) -> list[RunRecord]:
        if store._worker_id not in store._memory.beats:
            raise WorkerFenced(store._worker_id)
        return []

    patch.setattr(MemoryStore, "take_over", nothing)


def accept_a_checkpoint_apart_from_its_events(patch: pytest.MonkeyPatch) -> None:
    append = FaultyStore.append

    async def in_two_steps(store: FaultyStore, batches: Sequence[Append]) -> Collection[str]:
        memory = store.ledger.memory
        for batch in batches:
            if batch.checkpoint is not None and memory.runs[batch.run_id].owner == store._worker_id:
                memory.checkpoints[batch.run_id] = batch.checkpoint
        return await append(store, batches)

    patch.setattr(FaultyStore, "append", in_two_steps)


def let_two_claim_a_run(patch: pytest.MonkeyPatch) -> None:
    claim = MemoryStore.claim

    async def anyone(store: MemoryStore, run_id: str) -> RunRecord | None:
        run = store._memory.runs[run_id]
        if run.status is RunStatus.RUNNING:
            run.owner = ""
        return await claim(store, run_id)

    patch.setattr(MemoryStore, "claim", anyone)


def lose_an_answer_after_its_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    send = MemoryStore._send

    def to_a_worker_only(store: MemoryStore, run: RunRecord, command: bytes) -> str:
        owner = send(store, run, command)
        if not owner:
            store._memory.commands.pop(run.id)
        return owner

    patch.setattr(MemoryStore, "_send", to_a_worker_only)


def tell_the_agent_that_a_step_is_kept_before_it_is(patch: pytest.MonkeyPatch) -> None:
    async def at_once(journal: Journal, data: bytes) -> None:
        journal.set_checkpoint(data)

    patch.setattr(Journal, "save", at_once)


def void_what_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fold, "mark", lambda fold: None)


def keep_what_is_void(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recorder, "go_back", lambda recorder, *told, **more: None)


def park_for_ever(patch: pytest.MonkeyPatch) -> None:
    claim = MemoryStore.claim

    async def unless_parked(store: MemoryStore, run_id: str) -> RunRecord | None:
        last = store._memory.events[run_id][-1:]
        return None if last and b'"interrupt"' in last[0] else await claim(store, run_id)

    patch.setattr(MemoryStore, "claim", unless_parked)


def release_nothing(patch: pytest.MonkeyPatch) -> None:
    async def kept(worker: Worker, run_id: str, wanted_at: int | None, what: str) -> None:
        worker.forget(run_id)

    patch.setattr(Worker, "give_up", kept)


def leave_questions_off_by_halves(patch: pytest.MonkeyPatch) -> None:
    async def once(questions: Questions) -> tuple[list[ResumeEntry], int]:
        assert questions._answers is not None
        await questions._leave_off(questions._answers)
        return questions._answers.result() if questions._answers.done() else ([], 0)

    patch.setattr(Questions, "_left_off", once)


PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (deliver_before_the_store_has_accepted, "the store has"),
    (take_appends_of_fenced_workers, "does not own it|terminal events|was begun by"),
    (end_twice, "terminal events"),
    (leave_a_hole_between_replay_and_live, "got another"),
    (lose_wakeups, "hangs|keeps"),
    (attach_without_watching_first, "hangs|keeps"),
    (deliver_again_after_a_retry, "got|told of the end|terminal|hangs|run_fenced"),
    (end_without_a_turn, "has 0 turns"),
    (forget_what_was_shown, "its session keeps"),
    (start_again_when_asked_again, "was called|does not own it|its turn is not|void at|it is told of"),
    (hold_nothing_back, "pending events"),
    (let_runs_of_a_session_overtake, "before it was active"),
    (leave_dead_workers_runs, "hangs"),
    (accept_a_checkpoint_apart_from_its_events, "ahead of its journal"),
    (let_two_claim_a_run, "claimed by"),
    (lose_an_answer_after_its_acknowledgement, "hangs"),
    (tell_the_agent_that_a_step_is_kept_before_it_is, "is done again"),
    (void_what_is_kept, "void at|finished with"),
    (keep_what_is_void, "finished with"),
    (park_for_ever, "hangs"),
    (release_nothing, "hangs"),
    (leave_questions_off_by_halves, "agent_invalid|hangs"),
]


@pytest.mark.parametrize(("plant", "symptom"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], symptom: str) -> None:
    with simulated(), pytest.MonkeyPatch.context() as patch:
        plant(patch)
        for seed in range(PLANTED_SEEDS_MAX):
            world = run_schedule(seed)
            if world.violation:
                break
        else:
            pytest.fail(f"{plant.__name__} went unnoticed in {PLANTED_SEEDS_MAX} schedules")
    print(f"seed {seed}: {world.violation}")
    assert re.search(symptom, world.violation), world.violation
