"""The worker: what this process executes, from admission to the end, and what it takes over from lost workers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from gapless.agents.base import Agent
from gapless.config import Limits
from gapless.errors import (
    CursorExpired,
    GaplessError,
    LimitReached,
    RunCancelled,
    SessionBusy,
    ShuttingDown,
    WorkerLost,
)
from gapless.events import decode_event
from gapless.journals.contract import Store
from gapless.journals.journal import PAGE_EVENTS, Journal, Journals, end_tasks
from gapless.live import LiveRequest
from gapless.metrics import Metrics
from gapless.records import RunRecord, RunRequest, RunStatus
from gapless.runs.commands import Commands, decode_command
from gapless.runs.ending import lost
from gapless.runs.execution import Execution
from gapless.runs.patience import lease_wanted, patiently
from gapless.runs.readers import Readers, ends_unread
from gapless.runs.recorder import Recorder
from gapless.runs.request import Asked
from gapless.runs.sessions import Sessions

__all__ = ["DRAIN_S", "LEFT_S", "Worker"]

RESTARTS_MAX = 3
"""A run whose worker is lost more often than this is closed, whatever was asked for: it may be what kills them."""
EARLY_COMMANDS_MAX = 1_000
"""Runs whose commands are kept for an execution that is about to begin, and commands of each; the oldest are dropped
first."""
DRAIN_S = 10.0
"""What runs get to finish when the runner closes."""
LEFT_S = 0.1
"""A run with `on_disconnect="cancel"` that nobody reads any more is cancelled after this: who has just begun to read it
at another worker is heard of within that time."""

log = logging.getLogger("gapless.runner")


class Worker:
    """Executes runs in this process. It makes what they need: the journals, who reads them, what is asked of them, the
    sessions.

    `agents` are those that a run of another worker may need, by name; more may be added."""

    def __init__(self, store: Store, agents: Mapping[str, Agent], limits: Limits, metrics: Metrics) -> None:
        self.journals = Journals(
            store,
            on_refused=self._on_refused,
            on_command=self.on_command,
            on_fenced=self.on_fenced,
            metrics=metrics,
        )
        self.executions: dict[str, Execution] = {}
        """The runs that this worker executes."""
        self.commands = Commands(self.journals, limits, self)
        self.readers = Readers(self.journals, self.executes, self._on_left)
        self.sessions = Sessions(store, limits, self.readers, self.commands)
        self.draining = False
        """No new runs are taken."""
        self._agents = agents
        self._limits = limits
        self._metrics = metrics
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Who writes a run here: its execution, or who closes it for a worker that is gone."""
        self._early: dict[str, list[bytes]] = {}
        """Commands for runs that may be about to be executed here: one can come before the answer to who owns it."""

    # -- new runs ---------------------------------------------------------------------------------------------------

    async def start(self, asked: Asked) -> tuple[RunRecord, Execution | None]:
        """Create a run and execute it, or come back to the one that has the id already. The execution is None where it
        is not this worker's.

        Raises `RunConflict`, `SessionBusy`, `SessionNotFound`, `InputInvalid`, `LimitReached`, `ShuttingDown`,
        `StoreUnavailable`."""
        store = self.journals.store
        if asked.run_id is not None:
            known = await self.readers.find(asked.run_id)
            if known is not None:
                return asked.come_back(known), None
        self._admit(asked.user_id)
        if asked.session_id is not None:
            await self.sessions.check_user(asked.session_id, asked.user_id)
        record = asked.record()
        worker_id = self.journals.worker_id
        with lease_wanted(record.id):
            try:
                record, created = await store.create_run(record, reject_busy=asked.config.on_busy == "reject")
            except SessionBusy as error:
                raise await self._busy(error) from None
        if not created:
            return asked.come_back(record), None
        if self.journals.worker_id != worker_id:  # the lease was lost meanwhile, and the run with it: another's now
            return record, None
        journal = self.journals.create(record.id)
        recorder = Recorder(journal, record.id, record.session_id, self._limits)
        execution = self._begin(
            record, asked.agent, journal, recorder, asked.request, deps=asked.deps, output_type=asked.output_type
        )
        self._spawn(record.id, self._execute(execution))
        return record, execution

    def _admit(self, user_id: str) -> None:
        if self.draining:
            raise ShuttingDown("this worker is stopping; try again, another one will answer", retry_after_s=1)
        limits, active = self._limits, self.executions
        if len(active) >= limits.runs_active_max:
            raise LimitReached(f"this worker runs runs_active_max={limits.runs_active_max} runs", retry_after_s=1)
        per_user = limits.runs_active_per_user_max
        if per_user is not None:
            mine = sum(execution.record.user_id == user_id for execution in active.values())
            if mine >= per_user:
                raise LimitReached(f"you have runs_active_per_user_max={per_user} runs active", retry_after_s=1)

    async def _busy(self, error: SessionBusy) -> SessionBusy:
        """Return the same error, saying more of a run that would go on for as long as nobody answers it."""
        with contextlib.suppress(GaplessError):
            if error.run_id is not None and (await self.readers.record(error.run_id)).status is RunStatus.WAITING:
                what = f"{error.message}, which waits for a person's answer; answer or cancel it first"
                return SessionBusy(what, run_id=error.run_id)
        return error

    def _begin(
        self,
        record: RunRecord,
        agent: Agent,
        journal: Journal,
        recorder: Recorder,
        request: RunRequest,
        *,
        deps: Any = None,
        output_type: Any = None,
    ) -> Execution:
        """Make the execution of a run that this worker owns: a new one, or one that another worker had begun."""
        execution = Execution(
            record,
            journal,
            agent,
            recorder,
            request,
            self.sessions,
            self._metrics,
            deps=deps,
            output_type=output_type,
        )
        self.executions[record.id] = execution
        for command in self._early.pop(record.id, ()):
            self.on_command(record.id, command)
        return execution

    async def _execute(self, execution: Execution) -> None:
        try:
            await execution.run()
        finally:
            await self._let_go(execution)

    async def _let_go(self, execution: Execution) -> None:
        """Have nothing to do with the run any more: it has ended, or is another worker's."""
        self.executions.pop(execution.record.id, None)
        await self.journals.disown(execution.journal)

    def _spawn(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[run_id] = asyncio.create_task(work, name=f"gapless-execution-{run_id}")
        task.add_done_callback(functools.partial(self._done, run_id))

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(run_id) is task:
            del self._tasks[run_id]

    # -- runs of workers that are gone ------------------------------------------------------------------------------

    def take_over(self, record: RunRecord) -> None:
        """See to the run of a worker that is gone, which this worker owns from now on."""
        self._spawn(record.id, self._take_over(record, self._tasks.get(record.id)))

    async def _take_over(self, record: RunRecord, before: asyncio.Task[None] | None) -> None:
        """End the run, or run it again where that was asked for. What it had shown stays, marked as interrupted; after
        a restart it is void.

        The worker that is gone may have been this one, under an earlier id: `before` is what still ends of it here."""
        worker_id = self.journals.worker_id
        if before is not None:
            self._on_refused(record.id)
            await asyncio.wait({before})
        journal = self.journals.create(record.id, last=record.last_seq)
        try:
            recorder = await self._record_so_far(record, journal)
            if self.journals.worker_id != worker_id:
                return  # the lease was lost again
            self._metrics.runs_taken_over += 1
            agent = self._agents.get(record.agent)
            if agent is not None and self._may_restart(record):
                await self._restart(record, agent, journal, recorder)
            else:
                await self._close_lost(record, journal, recorder)
        finally:
            await self.journals.disown(journal)

    def _may_restart(self, record: RunRecord) -> bool:
        """Tell whether to run it again. The store counts the workers that were lost with it, this take-over included: a
        run that ends its process before its first event counts too."""
        wanted = record.config is not None and record.config.on_worker_lost == "restart"
        return wanted and record.takeovers <= RESTARTS_MAX and not self.draining

    async def _restart(self, record: RunRecord, agent: Agent, journal: Journal, recorder: Recorder) -> None:
        log.warning("run %s: restarted, its worker was lost", record.id)
        if record.status is RunStatus.WAITING:
            journal.set_status(RunStatus.RUNNING)
        await self._execute(self._begin(record, agent, journal, recorder, record.request or RunRequest()))

    async def _close_lost(self, record: RunRecord, journal: Journal, recorder: Recorder) -> None:
        self._early.pop(record.id, None)
        failure = WorkerLost("the worker that ran it was lost; ask again", run_id=record.id)
        journal.close(*lost(record, recorder, failure))
        await journal.settled()
        self._metrics.run_ended(record.agent, failure.code)
        log.warning("run %s: closed, its worker was lost", record.id)

    async def _record_so_far(self, record: RunRecord, journal: Journal) -> Recorder:
        """Return a recorder that has seen what others recorded."""
        recorder = Recorder(journal, record.id, record.session_id, self._limits)
        store, after = self.journals.store, 0
        while after < record.last_seq:
            events = []
            with contextlib.suppress(CursorExpired):
                events = await patiently(store.read, record.id, after, PAGE_EVENTS, patience_s=math.inf)
            if not events:
                break  # the store has lost what its record counts
            for event in events:
                with contextlib.suppress(msgspec.DecodeError):  # of another version; the run must still be ended
                    recorder.resume(decode_event(event))
            after += len(events)
            await asyncio.sleep(0)
        return recorder

    # -- stopping ---------------------------------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> None:
        """Take no new runs, let the active ones finish for `grace_s` seconds, close the rest as `shutting_down`.

        A run that waits for a person would not finish in that time: it is closed at once. To a live run nothing more is
        said."""
        self.draining = True
        for execution in self.executions.values():
            execution.hang_up()
        waiting = {run_id for run_id, execution in self.executions.items() if execution.waiting}
        tasks = [task for run_id, task in self._tasks.items() if run_id not in waiting]
        if tasks:
            log.info("draining %d runs for at most %.0f s", len(tasks), grace_s)
            await asyncio.wait(tasks, timeout=grace_s)
        for run_id, execution in list(self.executions.items()):
            execution.stop(
                ShuttingDown(
                    "the worker stopped before the run had finished; ask again", run_id=run_id, code="shutting_down"
                )
            )
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=DRAIN_S)

    async def close(self) -> None:
        """End what still runs, and release the journals and the store. Drain first."""
        await end_tasks(list(self._tasks.values()))
        await self.readers.close()
        await self.journals.close()

    # -- what is heard of runs --------------------------------------------------------------------------------------

    def executes(self, run_id: str) -> bool:
        """Tell whether this worker executes the run."""
        return run_id in self.executions

    def push(self, run_id: str, request: LiveRequest) -> bool:
        """Hand live input to a run that executes here; False for any other. Raises `InputInvalid`, `LimitReached`."""
        execution = self.executions.get(run_id)
        if execution is None or execution.fenced:
            return False
        execution.push(request)
        return True

    def on_command(self, run_id: str, command: bytes) -> None:
        """Act on a command, or keep it for an execution that may be about to begin."""
        execution = self.executions.get(run_id)
        if execution is None or execution.fenced:
            early = self._early.setdefault(run_id, [])
            early.append(command)
            del early[:-EARLY_COMMANDS_MAX]
            if len(self._early) > EARLY_COMMANDS_MAX:
                del self._early[next(iter(self._early))]
            return
        decoded = decode_command(command)
        execution.act(decoded)
        if decoded.kind == "followers":
            self._cancel_unless_read(execution)

    def on_fenced(self) -> None:
        """Stop all that executes: this worker has lost its lease, and its runs are others'."""
        for execution in self.executions.values():
            execution.fence()

    def _on_refused(self, run_id: str) -> None:
        execution = self.executions.get(run_id)
        if execution is not None:
            execution.fence()

    def _on_left(self, run_id: str) -> None:
        self._cancel_unless_read(self.executions[run_id])

    def _cancel_unless_read(self, execution: Execution) -> None:
        if ends_unread(execution.config):
            self.journals.loop.call_later(LEFT_S, self._cancel_unread, execution)

    def _cancel_unread(self, execution: Execution) -> None:
        if not self.readers.counted(execution.record.id) and not execution.followed_elsewhere:
            execution.stop(RunCancelled("cancelled because its last follower left", run_id=execution.record.id))
