"""One schedule: workers, clients and faults, all from a seed, and the invariants that every one of them must keep.

The runner, the journals, the executions and the followers are the real ones. Only time, the way to the store and the
agents are simulated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import msgspec
import pytest

import gapless.journals.journal
import gapless.journals.memory
import gapless.records
import gapless.runs.execution
import gapless.runs.going_on
import gapless.runs.keeper
import gapless.runs.readers
import gapless.runs.request
import gapless.runs.retrying
import gapless.runs.sessions
import gapless.runs.worker
from gapless import NotifyConfig, RunConfig, Runner, Webhook
from gapless.errors import (
    GaplessError,
    InputInvalid,
    RunConflict,
    RunNotFound,
    SessionBusy,
    ShuttingDown,
    StoreUnavailable,
)
from gapless.events import ResumeEntry
from gapless.fold import RESTARTED, VOID
from gapless.http.stream import EventStream, Streams, follow
from gapless.journals.contract import WorkerFenced
from gapless.journals.journal import Journal
from gapless.moves import Moves
from gapless.protocols.ag_ui.wire import AGUIEncoder
from gapless.records import RunRecord, RunStatus
from gapless.runs import going_on
from gapless.runs.retrying import patiently
from gapless.sse import EventStreamParser
from gapless.wire import Cursor
from tests.simulation.agents import CONTINUING, Plan, agents
from tests.simulation.clock import Process, SimulatedLoop, SimulatedTime
from tests.simulation.faulty import FaultyStore, Ledger

__all__ = ["World", "failing_seed", "run_schedule", "simulated"]

LEASE_S = 1.0
PATIENCE_S = 3.0
CALM_S = 90.0
"""Once nothing is faulty any more, everything must have ended within this."""
SETTLE_S = 20.0
WINDOW_EVENTS, PENDING_EVENTS, PAGE_EVENTS = 3, 4, 3
"""Small, so that few events pass every border."""
RETRY_S = 0.3
TOLD = NotifyConfig(webhooks=(Webhook(url="https://hooks.example.com/", secret="whsec_" + "c2VjcmV0" * 5),))
"""Who is told of each end and each question: what is in the outbox, as nothing is sent."""
PARK_AFTER_S = 0.2
ANSWER_TIMEOUT_S = 2.0


class Worker(Process):
    """One server process."""

    store: FaultyStore
    runner: Runner
    streams: Streams
    draining = False


class Client:
    """Someone who follows a run to its end, wherever it is served."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan = plan
        self.name = name
        self.after = 0
        self.ended = False
        self.waits = False
        """It was told that the run waits for a person."""


class World:
    """Everything in one schedule."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = SimulatedLoop(random.Random(self.rng.random()))
        self.loop.set_exception_handler(self._on_lost_exception)
        self.traced: list[str] = []
        self.violation = ""
        self._tracing = trace
        self.ledger = Ledger(self.loop, self.report, self.trace, trace)
        self.workers: list[Worker] = []
        self.plans: dict[str, Plan] = {}
        self.clients: list[Client] = []
        self.calm = False
        self.faults = False
        """Anything at all goes wrong in this schedule."""
        self._stopping: list[asyncio.Task[None]] = []
        self._ids = 0
        self._number = 0

    # -- telling ----------------------------------------------------------------------------------------------------

    def report(self, violation: str) -> None:
        """The first one is the schedule's."""
        self.trace(f"VIOLATION: {violation}")
        if not self.violation:
            self.violation = violation

    def trace(self, text: str) -> None:
        if self._tracing:
            self.traced.append(f"{self.loop.time():9.4f} {text}")

    def _on_lost_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.report(f"{context.get('message')}: {type(error).__name__}: {error}")

    def new_id(self) -> str:
        self._ids += 1
        return f"w{self._ids}"

    # -- workers ----------------------------------------------------------------------------------------------------

    def start_worker(self) -> Worker:
        self._number += 1
        worker = Worker(f"worker-{self._number}", random.Random(self.rng.random()))
        self.loop.processes.append(worker)
        self.workers.append(worker)
        worker.store = FaultyStore(self.ledger, worker)
        worker.streams = Streams()
        worker.runner = Runner(agents=agents(self), store=worker.store, lease_s=LEASE_S, retention_s=None, notify=TOLD)
        worker.runner.worker.deliveries.open = lambda: None  # type: ignore[method-assign]  # there is no network
        worker.runner.journals._patience_s = PATIENCE_S
        worker.spawn(self._serve(worker), self.loop)
        self.trace(f"{worker.name} starts")
        return worker

    async def _serve(self, worker: Worker) -> None:
        while True:
            try:
                await worker.runner.open()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return

    def is_owner(self, process: Process, run_id: str) -> bool:
        """Tell whether the store says that the run is this process's."""
        return isinstance(process, Worker) and self.ledger.owners.get(run_id) == process.store._worker_id

    def crash(self, worker: Worker) -> None:
        self.trace(f"{worker.name} is killed")
        worker.kill()
        self.workers.remove(worker)

    async def shut_down(self, worker: Worker, grace_s: float) -> None:
        self.trace(f"{worker.name} is asked to stop")
        worker.draining = True
        worker.streams.drain()
        closing = worker.spawn(worker.runner.close(grace_s), self.loop)
        with contextlib.suppress(StoreUnavailable):
            await _outcome(closing)
        if worker in self.workers:
            self.crash(worker)

    # -- clients ----------------------------------------------------------------------------------------------------

    def any_worker(self) -> Worker:
        return self.rng.choice(self.workers) if self.workers else self.start_worker()

    async def ask(self, what: Any) -> Any:
        """Call a worker, as a client does: raises what it raises, `ConnectionError` when it dies, or is silent."""
        worker = self.any_worker()
        task = worker.spawn(what(worker), self.loop)
        done, _ = await asyncio.wait({task}, timeout=10.0)
        if not done:
            task.cancel()
            raise ConnectionError("no answer")
        return await _outcome(task)

    async def start_run(self, plan: Plan, delay_s: float, message: str) -> None:
        """Start it, again and again until someone says that it is there."""
        await asyncio.sleep(delay_s)
        while True:
            try:
                await self.ask(
                    lambda worker: worker.runner.start(
                        message,
                        agent=plan.agent,
                        run_id=plan.run_id,
                        session_id=plan.session_id,
                        config=plan.config,
                    )
                )
            except SessionBusy:
                if self.rng.random() < 0.5:
                    await asyncio.sleep(RETRY_S * self.rng.random())
                    continue
                plan.known = plan.known or plan.run_id in self.ledger.memory.runs
                plan.starters -= 1
                return
            except RunConflict:
                if message == plan.run_id:
                    self.report(f"run {plan.run_id}: a repeated start was called a conflict")
                return
            except (StoreUnavailable, ShuttingDown, ConnectionError):
                await asyncio.sleep(RETRY_S * self.rng.random())
            except (GaplessError, WorkerFenced) as error:
                self.report(f"run {plan.run_id}: start raised {type(error).__name__}: {error}")
                return
            else:
                if message != plan.run_id:
                    self.report(f"run {plan.run_id}: a start with another message was no conflict")
                self.trace(f"run {plan.run_id} is known")
                plan.known = True
                return

    async def cancel_run(self, plan: Plan, delay_s: float) -> None:
        """Cancel it; again when its worker was lost meanwhile, which may have taken the wish along."""
        await asyncio.sleep(delay_s)
        while not plan.refused:
            run = self.ledger.memory.runs.get(plan.run_id)
            if run is not None and run.status.ended:
                return
            taken = self.ledger.taken.get(plan.run_id, 0)
            try:
                if run is not None:
                    plan.cancelled = True
                    await self.ask(lambda worker: worker.runner.cancel(plan.run_id))
                    self.trace(f"run {plan.run_id}: cancel was accepted")
                    while taken == self.ledger.taken.get(plan.run_id, 0):
                        if self.ledger.memory.runs[plan.run_id].status.ended:
                            return
                        await asyncio.sleep(RETRY_S)
            except (StoreUnavailable, ConnectionError, RunNotFound):
                pass
            await asyncio.sleep(RETRY_S)

    async def answer_run(self, plan: Plan, interrupt_id: str) -> None:
        """Answer each time that the run waits for this, and never again what was acknowledged."""
        entry = ResumeEntry(interrupt_id=interrupt_id, status="resolved", payload=interrupt_id)
        answered, thinks_s = set[int](), self.rng.choice([0.0, 0.0, 1.0, 4.0])
        while not plan.refused:
            run = self.ledger.memory.runs.get(plan.run_id)
            if run is not None and run.status.ended:
                return
            waits = run is not None and run.status is RunStatus.WAITING and run.last_seq not in answered
            if run is not None and waits and f'"{interrupt_id}"'.encode() in self.ledger.memory.events[plan.run_id][-1]:
                seq = run.last_seq
                if plan.continues and interrupt_id in plan.acknowledged:
                    self.report(f"run {plan.run_id}: asks {interrupt_id} again, the answer was accepted")
                await asyncio.sleep(thinks_s)
                with contextlib.suppress(StoreUnavailable, ConnectionError, InputInvalid):
                    await self.ask(lambda worker: worker.runner.answer(plan.run_id, [entry]))
                    self.trace(f"run {plan.run_id}: answer was accepted")
                    plan.acknowledged.add(interrupt_id)
                    answered.add(seq)
            await asyncio.sleep(RETRY_S)

    async def follow(self, client: Client, delay_s: float) -> None:
        """To the end, over any number of connections."""
        await asyncio.sleep(delay_s)
        rng = self.rng
        while not client.ended and not client.plan.refused:
            worker = self.any_worker()
            client.waits = False
            connection = Connection(self, client, worker)
            lifetime_s = None if self.calm or rng.random() < 0.4 else rng.random() ** 2 * 3
            done, _ = await asyncio.wait({connection.task}, timeout=lifetime_s)
            connection.leave()
            if not done:
                self.trace(f"{client.name} leaves {worker.name} at {client.after}")
                if rng.random() < 0.3:
                    connection.task.cancel()  # as a server does that stops
            await asyncio.sleep(RETRY_S * rng.random() * (5 if client.waits else 1))

    # -- faults -----------------------------------------------------------------------------------------------------

    async def make_trouble(self, until_s: float) -> None:
        rng = self.rng
        weather = self.ledger.weather
        while True:
            await asyncio.sleep(rng.random() * until_s / 3)
            if self.loop.time() >= until_s:
                break
            kind = rng.randrange(8)
            worker = self.any_worker()
            if kind == 0:
                self.crash(worker)
                if not self.workers or rng.random() < 0.5:
                    self.start_worker()
            elif kind == 1:
                self.trace(f"{worker.name} is stopped")
                worker.paused = True
                self.loop.call_later(rng.random() ** 2 * 4, self._resume, worker)
            elif kind == 2:
                self.trace(f"{worker.name} is cut off from the store")
                worker.store.cut = True
                self.loop.call_later(rng.random() ** 2 * 6, self._heal, worker)
            elif kind == 3:
                self.trace("the store is away")
                for one in self.workers:
                    one.store.cut = True
                    self.loop.call_later(rng.random() ** 2 * 8, self._heal, one)
            elif kind == 4:
                worker.skew_s += rng.choice([-3600.0, -1.0, 1.0, 86400.0])
                self.trace(f"{worker.name}: its clock jumps")
            elif kind == 5:
                if not worker.draining:
                    self._stopping.append(asyncio.ensure_future(self.shut_down(worker, rng.random() * 2)))
                    self.start_worker()
            elif kind == 6:
                weather.fails, weather.loses = rng.choice([(0.0, 0.0), (0.1, 0.05), (0.02, 0.2), (0.3, 0.3)])
            else:
                self.start_worker() if len(self.workers) < 3 else self.crash(worker)

    def _resume(self, worker: Worker) -> None:
        self.trace(f"{worker.name} goes on")
        worker.paused = False

    def _heal(self, worker: Worker) -> None:
        if worker.store.cut:
            self.trace(f"{worker.name} reaches the store again")
            worker.store.heal()

    def calm_down(self) -> None:
        self.trace("nothing is faulty any more")
        self.calm = True
        weather = self.ledger.weather
        weather.fails = weather.loses = weather.slow = 0.0
        for worker in self.workers:
            worker.paused = False
            self._heal(worker)
        if all(worker.draining for worker in self.workers):
            self.start_worker()

    # -- the schedule -----------------------------------------------------------------------------------------------

    async def main(self) -> None:
        rng, weather = self.rng, self.ledger.weather
        weather.latency_s = rng.choice([0.0, 0.001, 0.01, 0.05])
        weather.slow = rng.choice([0.0, 0.0, 0.05])
        weather.repeats = rng.choice([0.0, 0.1])
        self.faults = rng.random() < 0.85
        if self.faults:
            weather.fails, weather.loses = rng.choice([(0.0, 0.0), (0.0, 0.0), (0.05, 0.05), (0.0, 0.1)])
        for _ in range(rng.choice([1, 2, 2, 3])):
            self.start_worker()
        until_s = rng.random() * 6
        tasks = self._make_clients(until_s)
        trouble = asyncio.ensure_future(self.make_trouble(until_s) if self.faults else asyncio.sleep(0))
        await trouble
        self.calm_down()
        _, hanging = await asyncio.wait(tasks, timeout=CALM_S)
        await self._settle()
        if hanging and not self.violation:
            self._explain_hang()
        self._check_end()
        await self._tear_down(hanging)

    def _make_clients(self, until_s: float) -> list[asyncio.Task[None]]:
        rng, tasks = self.rng, []
        sessions = ["s1"] if rng.random() < 0.6 else ["s1", "s2"]
        for number in range(rng.choice([1, 1, 2, 2, 3])):
            config, run_id = CONFIGS[rng.randrange(len(CONFIGS))], f"r{number}"
            agent = (
                "scripted"
                if config.on_worker_lost != "continue"
                else rng.choice((*CONTINUING, *CONTINUING, "scripted"))
            )
            plan = Plan(run_id, rng.choice(sessions), agent, self._script(run_id, agent), config)
            self.plans[plan.run_id] = plan
            begin_s = rng.random() * until_s * 0.7
            plan.starters = rng.choice([1, 1, 1, 2])
            delays = [begin_s + 0.2 * rng.random() ** 3 for _ in range(plan.starters)]
            tasks += [self.start_run(plan, delay_s, plan.run_id) for delay_s in delays]
            if rng.random() < 0.1:
                tasks.append(self._conflict(plan, begin_s + rng.random()))
            for index in range(rng.choice([1, 1, 2, 3])):
                client = Client(plan, f"client-{number}.{index}")
                self.clients.append(client)
                tasks.append(self.follow(client, begin_s + (rng.random() * 2 if index else 0.0)))
            unanswered = [id for id in plan.questions if rng.random() < 0.2]
            if plan.endless or unanswered or rng.random() < 0.2:
                tasks.append(self.cancel_run(plan, begin_s + rng.random() * rng.choice([3, 12])))
            tasks += [self.answer_run(plan, id) for id in plan.questions if id not in unanswered]
        return [asyncio.ensure_future(task) for task in tasks]

    async def _conflict(self, plan: Plan, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if plan.known:
            await self.start_run(plan, 0.0, "something else")

    def _script(self, run_id: str, agent: str) -> list[tuple[Any, ...]]:
        rng = self.rng
        steps: list[tuple[Any, ...]] = []
        pace_s = rng.choice([0.0, 0.0, 0.01, 0.3])
        asks, works = (0.03, 0.0) if agent == "scripted" else (0.07, 0.25)
        for number in range(rng.choice([0, 1, 3, 6, 12])):
            steps.append(("say", f"{run_id}.{number} "))
            if pace_s and rng.random() < 0.7:
                steps.append(("wait", pace_s * rng.random() * 2))
            if rng.random() < works:
                names = [f"{run_id}.work-{number}.{index}" for index in range(rng.choice([1, 1, 2, 3]))]
                seconds = rng.random() ** 2 * 2
                steps.append(("once", names[0], seconds) if rng.random() < 0.25 else ("steps", names, seconds))
            if agent == "replaying" and rng.random() < works / 2:
                work, late = f"{run_id}.hurried-{number}", f"{run_id}-late-{number}"
                steps.append(("hurry", work, rng.random(), rng.random(), late, rng.random() < 0.7))
            if rng.random() < asks:
                question = f"{run_id}-ask-{number}"
                steps.append(("ask", question) if rng.random() < 0.8 else ("ask briefly", question, rng.random()))
            if rng.random() < 0.03:
                steps.append(("event",))
        end = rng.random()
        if end < 0.08:
            steps.append(("fail",))
        elif end < 0.2:
            steps.append(("forever",))
        if rng.random() < 0.15:
            steps.insert(0, ("cleanup", rng.choice([0.01, 1.0, 8.0])))
        return steps

    async def _settle(self) -> None:
        """Until every worker has let go of what has ended."""
        deadline = self.loop.time() + SETTLE_S
        while self.loop.time() < deadline and not self.violation and any(map(_busy, self.workers)):
            await asyncio.sleep(0.5)

    async def _tear_down(self, hanging: set[asyncio.Task[None]]) -> None:
        for task in hanging:
            task.cancel()
        for process in self.loop.processes[1:]:
            process.paused = False
            process.kill()
        me = asyncio.current_task()
        left = [task for process in self.loop.processes for task in process.tasks if task is not me and not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=60.0)

    # -- what must hold at the end ----------------------------------------------------------------------------------

    def _explain_hang(self) -> None:
        for plan in self.plans.values():
            run = self.ledger.memory.runs.get(plan.run_id)
            if run is not None and not run.status.ended:
                return self.report(f"run {run.id} hangs: {run.status.value} at {run.last_seq}, owner {run.owner}")
        for client in self.clients:
            if not client.ended and not client.plan.refused:
                run = self.ledger.memory.runs.get(client.plan.run_id)
                last = None if run is None else run.last_seq
                return self.report(f"{client.name} of run {client.plan.run_id} hangs at {client.after} of {last}")
        return self.report("a client hangs")

    def _check_end(self) -> None:
        for plan in self.plans.values():
            self._check_run(plan)
        for session_id, turns in self.ledger.memory.turns.items():
            runs = self.ledger.memory.runs
            began = [turn.run_id for turn in turns if runs[turn.run_id].started_at is not None]
            order = [run_id for run_id in runs if run_id in began]
            if began != order:
                self.report(f"session {session_id}: its turns are {began}, they began as {order}")
        for worker in self.workers:
            if why := _busy(worker):
                self.report(f"{worker.name} keeps {why}")

    def _check_run(self, plan: Plan) -> None:
        memory = self.ledger.memory
        run = memory.runs.get(plan.run_id)
        if run is None:
            if not plan.refused:
                self.report(f"run {plan.run_id} was never created")
            return
        raw = memory.events[plan.run_id]
        events = [msgspec.json.decode(event) for event in raw]
        terminal = [n for n, event in enumerate(events, 1) if _ends(event)]
        if not run.status.ended:
            self.report(f"run {run.id} has not ended")
            return
        if terminal != [len(events)]:
            self.report(f"run {run.id}: terminal events at {terminal} of {len(events)}")
        if run.last_seq != len(events):
            self.report(f"run {run.id}: last_seq is {run.last_seq} of {len(events)}")
        for client in self.clients:
            if client.plan is plan and client.ended and client.after != len(events):
                self.report(f"{client.name} ended at {client.after} of {len(events)}")
        self._check_notices(run, events)
        self._check_moves(run)
        self._check_turn(plan, events)
        takeovers = self.ledger.taken.get(run.id, 0)
        owners = takeovers + self.ledger.claimed.get(run.id, 0)
        if plan.calls > 1 + (owners if plan.when_lost != "fail" else 0):
            self.report(f"run {run.id}: its agent was called {plan.calls} times, it came to others {owners} times")
        for what, left in (("checkpoint", memory.checkpoints), ("command", memory.commands), ("wish", memory.wanted)):
            if run.id in left:
                self.report(f"run {run.id} has ended, and a {what} is kept")
        self._check_reason(plan, events[-1] if events else {}, takeovers)

    def _check_notices(self, run: RunRecord, events: list[dict[str, Any]]) -> None:
        """Each question and the end are told once, and nothing else is."""
        asked = [seq for seq, event in enumerate(events, 1) if (event.get("outcome") or {}).get("type") == "interrupt"]
        kept = self.ledger.memory.outbox.known(run.id)
        told = sorted(msgspec.json.decode(msgspec.json.decode(notice.data)["body"])["data"]["seq"] for notice in kept)
        if told != [*asked, len(events)]:
            self.report(f"run {run.id} asked at {asked} and ended at {len(events)}, and it is told of {told}")

    def _check_moves(self, run: RunRecord) -> None:
        """Each worker that had the run got it from the one that had it before."""
        moves = self.ledger.memory.moves.get(run.id, Moves()).moves
        came, places = [move.to_worker for move in moves], [move.seq for move in moves]
        if came != [move.from_worker for move in moves[1:]] + [run.owner] * bool(moves) or places != sorted(places):
            self.report(f"run {run.id}, at last of {run.owner}, moved so: {moves}")

    def _check_turn(self, plan: Plan, events: list[dict[str, Any]]) -> None:
        memory = self.ledger.memory
        run = memory.runs[plan.run_id]
        turns = [turn for turn in memory.turns.get(run.session_id, ()) if turn.run_id == run.id]
        if len(turns) != 1:
            self.report(f"run {run.id} has {len(turns)} turns in its session")
            return
        shown = "".join(self._shown(plan, events).values())
        messages = msgspec.json.decode(turns[0].messages)
        if not messages and not plan.calls:
            return  # it ended before it began: nothing was asked, nothing shown
        kept = "".join(message.get("content") or "" for message in messages if message["role"] == "assistant")
        if kept != shown:
            self.report(f"run {run.id} showed {shown!r} and its session keeps {kept!r}")
        cut = any((message.get("metadata") or {}).get("interrupted") for message in messages)
        if cut == (run.status.value == "finished"):
            self.report(f"run {run.id} is {run.status.value} and its turn is{'' if cut else ' not'} marked interrupted")
        if run.status.value == "finished":
            if not plan.text.fullmatch(kept):
                self.report(f"run {run.id} finished with {kept!r} and not {plan.text.pattern!r}")
            lost = [id for id in plan.acknowledged if plan.when_lost != "restart" and f"<{id}>" not in kept]
            if lost:
                self.report(f"run {run.id}: an answer was accepted and lost: {lost}")

    def _shown(self, plan: Plan, events: list[dict[str, Any]]) -> dict[str, str]:
        """What is shown of it, by message. What a lost worker said after the run's checkpoint, and no more, is void."""
        saved = self.ledger.checkpoints.get(plan.run_id, ())
        shown: dict[str, str] = {}
        at_save: dict[int, dict[str, str]] = {0: {}}
        for seq, event in enumerate(events, 1):
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                shown[event["messageId"]] = shown.get(event["messageId"], "") + event["delta"]
            elif event["type"] == "CUSTOM" and event["name"] == RESTARTED:
                shown.clear()
            elif event["type"] == "CUSTOM" and event["name"] == VOID:
                for id in event["value"]["messageIds"]:
                    shown.pop(id, None)
                for id, chars in event["value"].get("cut", {}).items():
                    shown[id] = shown[id][:chars]
                stood = max((save for save in saved if save < seq), default=0)
                if shown != at_save[stood]:
                    self.report(f"run {plan.run_id}: void at {seq} leaves {shown}, at {stood} was {at_save[stood]}")
            if seq in saved:
                at_save[seq] = dict(shown)
        return shown

    def _check_reason(self, plan: Plan, terminal: dict[str, Any], takeovers: int) -> None:
        """It ended as it did for a reason."""
        run = self.ledger.memory.runs[plan.run_id]
        code = (run.error or {}).get("code", "")
        outcome = (terminal.get("outcome") or {}).get("type", "")
        if terminal.get("type") == "RUN_ERROR" and terminal.get("code") != code:
            self.report(f"run {run.id}: its record says {code}, its last event {terminal.get('code')}")
        if (terminal.get("type") == "RUN_ERROR") != (run.status.value == "failed"):
            self.report(f"run {run.id} is {run.status.value} and ends with {terminal}")
        if (outcome == "cancelled") != (run.status.value == "cancelled"):
            self.report(f"run {run.id} is {run.status.value} and ends with {terminal}")
        interrupted = any(
            other.session_id == plan.session_id and other is not plan and other.config.on_busy == "interrupt"
            for other in self.plans.values()
        )
        begun = run.started_at is not None  # one whose turn had not come is begun by another worker
        allowed = {
            "": not plan.fails and not plan.endless,
            "run_cancelled": plan.cancelled or interrupted or plan.config.on_disconnect == "cancel",
            "run_timeout": plan.config.timeout == 1.0 or plan.config.idle_timeout is not None,
            "worker_lost": begun and takeovers > (going_on.TAKEOVERS_MAX if plan.continues else 0),
            "agent_failed": plan.fails,
            "answer_timeout": plan.config.answer_timeout == ANSWER_TIMEOUT_S and plan.questions,
            "store_unavailable": self.faults,
            "shutting_down": begun and self.faults and plan.when_lost == "fail",
        }
        if not allowed.get(code):
            self.report(f"run {run.id} is {run.status.value} ({code}) for no reason")


class Connection:
    """One client's connection to one worker, over HTTP without the sockets: the serving side runs there, and what it
    sends the client has at once."""

    def __init__(self, world: World, client: Client, worker: Worker) -> None:
        self.world = world
        self.client = client
        self.worker = worker
        self.open = True
        self._rng = random.Random(world.rng.random())
        self._stalls = self._rng.random() < 0.3
        self._cut_at = None if world.calm or self._rng.random() < 0.7 else client.after + self._rng.randrange(12)
        self._cursor = Cursor(client.after)
        self._leaving = world.loop.create_future()
        self._parser = EventStreamParser()
        world.trace(f"{client.name} comes to {worker.name} at {client.after}")
        self.task = worker.spawn(self._serve(), world.loop)

    def leave(self) -> None:
        """The client hangs up."""
        self.open = False
        if not self._leaving.done():
            self._leaving.set_result(None)

    async def _serve(self) -> None:
        """What the route does that serves a run's events."""
        runner, client = self.worker.runner, self.client
        if not runner._open:
            return
        try:
            record = await runner.get_run(client.plan.run_id)
            response = follow(runner, self.worker.streams, record, AGUIEncoder, self._cursor, location="")
            if isinstance(response, EventStream):
                await response.stream(self._receive, self._send)
            elif self.open and not self.worker.dead:
                self._end()
        except (RunNotFound, StoreUnavailable):
            return
        except GaplessError as error:
            self.world.report(f"{client.name}: following raised {type(error).__name__}: {error}")

    async def _receive(self) -> dict[str, Any]:
        await asyncio.shield(self._leaving)
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        for frame in self._parser.feed(message.get("body", b"")):
            if not self.open or self.worker.dead:
                raise ConnectionResetError
            if frame.event == "end":
                self._end()
            elif frame.event == "message" and frame.data is not None:
                seq = int(frame.id or "0")
                if self._cut_at is not None and seq >= self._cut_at:
                    self.leave()
                    raise ConnectionResetError
                self._take(seq, frame.data.encode())
        journal = self.worker.runner.journals._journals.get(self.client.plan.run_id)
        if journal is not None:
            self._check_bounds(journal)
        if self._stalls and self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.random())

    def _take(self, seq: int, event: bytes) -> None:
        """The client gets an event, or several in one."""
        world, client = self.world, self.client
        run_id = client.plan.run_id
        accepted = world.ledger.memory.events[run_id]
        meant = accepted[client.after : seq]
        if seq <= client.after:
            world.report(f"{client.name} of run {run_id} got {seq} after {client.after}")
        elif seq > len(accepted):
            world.report(f"{client.name} of run {run_id} got {seq}, the store has {len(accepted)}")
        elif meant != [event] if len(meant) == 1 else not _is_merged(event, meant):
            world.report(f"{client.name} of run {run_id} got another {client.after + 1} to {seq} than the store has")
        client.after = seq
        world.trace(f"{client.name} gets {run_id}@{seq}")

    def _end(self) -> None:
        """The client is told that there is no more: the run has ended, or waits for a person."""
        world, client = self.world, self.client
        accepted = world.ledger.memory.events[client.plan.run_id]
        last = msgspec.json.decode(accepted[client.after - 1])
        if last["type"] == "RUN_FINISHED" and not _ends(last):
            world.trace(f"{client.name} is told that the run waits")
            client.waits = True
            return
        if client.after != len(accepted) or not _ends(last):
            world.report(f"{client.name} is told of the end at {client.after} of {len(accepted)}")
        client.ended = True
        world.trace(f"{client.name} has it all")

    def _check_bounds(self, journal: Journal) -> None:
        if len(journal._window) > 2 * WINDOW_EVENTS + PENDING_EVENTS + PENDING_SLACK:
            self.world.report(f"run {journal.run_id}: a window of {len(journal._window)} events")
        if len(journal._pending) > PENDING_EVENTS + PENDING_SLACK:
            self.world.report(f"run {journal.run_id}: {len(journal._pending)} pending events")


def _is_merged(event: bytes, meant: list[bytes]) -> bool:
    """The event is these deltas of one text in one."""
    merged, *parts = (msgspec.json.decode(one) for one in (event, *meant))
    delta = "".join(part.pop("delta", "") for part in parts)
    return bool(merged.pop("delta", None) == delta) and all(part == merged for part in parts)


PENDING_SLACK = 6
"""What the run itself writes beside its agent: starts, ends, the terminal event."""

MORE: list[dict[str, Any]] = [
    {},
    {},
    {},
    {"coalesce_ms": 50},
    {"timeout": 1.0},
    {"idle_timeout": 0.5},
    {"on_disconnect": "cancel"},
    {"answer_timeout": ANSWER_TIMEOUT_S},
]
CONFIGS = [
    RunConfig(on_busy=on_busy, on_worker_lost=on_worker_lost, on_waiting="reject", **more)  # type: ignore[arg-type]  # of the literals
    for on_busy in ("reject", "queue", "queue", "interrupt")
    for on_worker_lost in ("fail", "restart", "continue", "continue")
    for more in MORE
]


async def _outcome(task: asyncio.Task[Any]) -> Any:
    """What a worker's task came to; `ConnectionError` when the worker died."""
    await asyncio.wait({task})
    if task.cancelled():
        raise ConnectionError("the worker is gone")
    return task.result()


def _ends(event: dict[str, Any]) -> bool:
    kind = event["type"]
    return kind == "RUN_ERROR" or (kind == "RUN_FINISHED" and (event.get("outcome") or {}).get("type") != "interrupt")


def _busy(worker: Worker) -> str:
    """What a worker still holds of runs that have ended."""
    runner = worker.runner
    for what, held in (
        ("tasks", runner.worker._tasks),
        ("executions", runner.executions),
        ("journals", runner.journals._journals),
    ):
        if held:
            return f"{what}: {list(held)}"
    return ""


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Time and the bounds of the hot path as the simulation wants them."""
    clock = SimulatedTime()
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        for module in (
            gapless.records,
            gapless.runs.request,
            gapless.runs.keeper,
            gapless.runs.execution,
            gapless.runs.going_on,
            gapless.runs.retrying,
            gapless.journals.journal,
        ):
            patch.setattr(module, "time", clock)
        for module in (gapless.runs.request, gapless.runs.keeper, gapless.runs.sessions):
            patch.setattr(module, "new_id", lambda: _world.new_id())
        patch.setattr(gapless.runs.readers, "PAGE_EVENTS", PAGE_EVENTS)
        patch.setattr(gapless.runs.execution, "PARK_AFTER_S", PARK_AFTER_S)
        patch.setattr(patiently, "__kwdefaults__", {"patience_s": PATIENCE_S})
        patch.setattr(gapless.journals.journal, "WINDOW_EVENTS", WINDOW_EVENTS)
        patch.setattr(gapless.journals.journal, "WINDOW_EVENTS_MAX", 2 * WINDOW_EVENTS)
        patch.setattr(gapless.journals.journal, "PENDING_EVENTS_MAX", PENDING_EVENTS)
        patch.setattr(Journal.read, "__defaults__", (PAGE_EVENTS,))
        patch.setattr(gapless.journals.memory, "_copy", msgspec.structs.replace)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


_world: World


def run_schedule(seed: int, *, trace: bool = False) -> World:
    """Run the schedule of this seed; the world says what became of it. Within `simulated()`."""
    global _world
    world = _world = World(seed, trace=trace)
    try:
        world.loop.run_until_complete(world.main())
    except RuntimeError as error:
        world.report(f"{type(error).__name__}: {error}")
    finally:
        world.loop.close()
    return world


def failing_seed(seeds: Sequence[int]) -> tuple[int, str] | None:
    """The first of these schedules that keeps not all invariants, and which."""
    with simulated():
        for seed in seeds:
            world = run_schedule(seed)
            if world.violation:
                return seed, world.violation
    return None
