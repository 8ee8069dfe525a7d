"""The worker: what this process executes, from admission to the end, and what it takes over from lost workers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, TypeVar

from gapless.agents.base import Agent
from gapless.config import Limits
from gapless.errors import GaplessError, LimitReached, RunCancelled, SessionBusy, ShuttingDown, StoreUnavailable
from gapless.journals.contract import Store, WorkerFenced
from gapless.journals.journal import Journal, Journals
from gapless.live import LiveRequest
from gapless.metrics import Metrics
from gapless.notify import NotifyConfig
from gapless.producing import Batch, Taken
from gapless.records import RunRecord, RunRequest, RunStatus, now_ms, session_busy
from gapless.runs.checkpoints import Before
from gapless.runs.commands import Commands, decode_command
from gapless.runs.conversations import Conversations
from gapless.runs.deliveries import Deliveries
from gapless.runs.execution import CLEANUP_S_MAX, Execution
from gapless.runs.feeds import Feeds
from gapless.runs.going_on import GoingOn
from gapless.runs.loading import Loading
from gapless.runs.notices import Notices
from gapless.runs.producers import Producers
from gapless.runs.readers import Readers, ends_unread
from gapless.runs.recorder import Recorder
from gapless.runs.request import Asked
from gapless.runs.retrying import LeaseWanted, patiently
from gapless.runs.sessions import Sessions
from gapless.tasks import end_tasks

__all__ = ["DRAIN_S", "LEFT_S", "Worker"]

EARLY_COMMANDS_MAX = 1_000
"""Runs whose commands are kept for an execution that is about to begin, and commands of each; the oldest are dropped
first."""
STOPPING_WAIT_S = CLEANUP_S_MAX + 2.0
"""A run that is to stop is waited for so long by the next one of its session: its agent's clean-up, and its end."""
STOPPING_LOOK_S = 0.01
"""Between two looks whether the session is free."""
DRAIN_S = 10.0
"""What runs get to finish when the runner closes."""
LEFT_S = 0.1
"""A run with `on_disconnect="cancel"` that nobody reads any more is cancelled after this: who has just begun to read it
at another worker is heard of within that time."""

log = logging.getLogger("gapless.runner")

_ChangeT = TypeVar("_ChangeT")


class Worker:
    """Executes runs in this process. It makes what they need: the journals, who reads them, what is asked of them, the
    sessions.

    `agents` are those that a run of another worker may need, by name; more may be added."""

    def __init__(
        self, store: Store, agents: Mapping[str, Agent], limits: Limits, metrics: Metrics, notify: NotifyConfig
    ) -> None:
        self.journals = Journals(
            store,
            on_refused=self.refused,
            on_command=self.on_command,
            on_fenced=self.on_fenced,
            on_wanted=lambda: self.on_wanted(),
            on_session=lambda session_id: self.conversations.hear(session_id),
            on_user_session=lambda user_id, session_id: self.feeds.hear(user_id, session_id),
            metrics=metrics,
        )
        self._notices = notices = Notices(notify)
        self.deliveries = Deliveries(store, notify, metrics)
        self.journals.on_notices = self.deliveries.nudge
        self.executions: dict[str, Execution] = {}
        """The runs that this worker executes."""
        self.commands = Commands(self.journals, limits, self)
        self.producers = Producers(store, self)
        self.readers = Readers(self.journals, self.executes, self._on_left)
        self.conversations = Conversations(store, self.readers)
        self.feeds = Feeds(store)
        self.sessions = Sessions(store, limits, self.readers, self.commands)
        self.draining = False
        """No new runs are taken."""
        self.loading = Loading()
        self._agents = agents
        self._limits = limits
        self._metrics = metrics
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Who writes a run here: its execution, or who closes it for a worker that is gone."""
        self._starting: set[asyncio.Future[None]] = set()
        """Each is done once a start that was let in has begun its run, or failed."""
        self.going_on = GoingOn(self.journals, self.readers, agents, limits, metrics, notices, self)
        self.on_wanted: Callable[[], None] = lambda: None
        """Called when there may be a run that is nobody's and wants somebody."""
        self._early: dict[str, list[tuple[bytes, int]]] = {}
        """Commands for runs that may be about to be executed here: one can come before the answer to who owns it."""

    # -- new runs ---------------------------------------------------------------------------------------------------

    async def start(self, asked: Asked) -> tuple[RunRecord, Execution | None]:
        """Create a run and execute it, or come back to the one that has the id already. The execution is None where it
        is not this worker's.

        Raises `RunConflict`, `SessionBusy`, `SessionNotFound`, `InputInvalid`, `LimitReached`, `ShuttingDown`,
        `StoreUnavailable`, and what keeps the agent from being ready."""
        if asked.run_id is not None:
            known = await self.readers.find(asked.run_id)
            if known is not None:
                return asked.come_back(known), None
        await self.loading.load_for_run(asked.agent)
        self._admit(asked.user_id)
        self.deliveries.open()
        starting = self.journals.loop.create_future()
        self._starting.add(starting)
        try:
            return await self._start(asked)
        finally:
            self._starting.discard(starting)
            starting.set_result(None)

    async def _start(self, asked: Asked) -> tuple[RunRecord, Execution | None]:
        if asked.session_id is not None:
            await self.sessions.check_user(asked.session_id, asked.user_id)
        record = asked.record(others=not self.journals.store.alone)
        if asked.config.on_busy != "reject":
            asked.keep_request(record, others=not self.journals.store.alone)
        with LeaseWanted(record.id):
            record, created = await self._create(asked, record)
        if not created:
            return asked.come_back(record), None
        journal = self.journals.create(record.id)
        recorder = Recorder(journal, record.id, record.session_id, self._limits)
        execution = self._begin(
            record, asked.agent, journal, recorder, asked.request, deps=asked.deps, output_type=asked.output_type
        )
        self.spawn(record.id, self._execute(execution))
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

    async def _create(self, asked: Asked, record: RunRecord) -> tuple[RunRecord, bool]:
        """Create the run as the store does. A run before it that has been told to stop is waited for, for at most
        `STOPPING_WAIT_S`; one that waits for a person makes way, where the config says so."""
        reject, deadline = asked.config.on_busy == "reject", time.monotonic() + STOPPING_WAIT_S
        while True:
            try:
                worker_id = self.journals.worker_id  # by now it may be another than when the run was asked for
                made, created = await self.journals.store.create_run(record, reject_busy=reject, started_at=now_ms())
                return made, created and self.journals.worker_id == worker_id  # else it was lost with the lease
            except SessionBusy as error:
                busy = await self._in_the_way(error, deadline)
                if busy is None:
                    continue
                if busy.status is not RunStatus.WAITING:
                    if busy.owner or busy.agent in self._agents:
                        raise
                    why = f", which wants agent {busy.agent!r}; this server does not have that, cancel the run"
                elif asked.config.on_waiting == "decline" and not await self._has_more(busy):
                    reject = False  # it is declined when this one's turn is to come
                    asked.keep_request(record, others=not self.journals.store.alone)
                    continue
                else:
                    why = ", which waits for a person's answer; answer or cancel it first"
                raise session_busy(record.session_id, busy.id, why) from None

    async def once_idle(self, change: Callable[[], Awaitable[_ChangeT]]) -> _ChangeT:
        """Return what `change` does to a session that must have no active run. One that has been told to stop is waited
        for, for at most `STOPPING_WAIT_S`. Raises `SessionBusy` for any other, and what `change` raises."""
        deadline = time.monotonic() + STOPPING_WAIT_S
        while True:
            try:
                return await change()
            except SessionBusy as error:
                if await self._in_the_way(error, deadline) is not None:
                    raise

    async def _in_the_way(self, error: SessionBusy, deadline: float) -> RunRecord | None:
        """Return the run that a session is busy with, or None once it is not any more: one that has been told to stop
        is waited for, up to the `deadline`. Raises the error where it has not ended then."""
        run = None if error.run_id is None else await self.readers.find(error.run_id)
        if run is None:
            raise error
        if not run.status.ended and not await self._stopping(run):
            return run
        if not await self._ends_by(run.id, deadline):
            raise error
        await asyncio.sleep(STOPPING_LOOK_S)
        return None

    async def wait_for_stop(self, session_id: str) -> None:
        """Wait for the session's run to end if it has been told to, for at most `STOPPING_WAIT_S`."""
        run = await self.sessions.current_run(session_id)
        if run is not None and not run.status.ended and await self._stopping(run):
            await self._ends_by(run.id, time.monotonic() + STOPPING_WAIT_S)

    async def _stopping(self, run: RunRecord) -> bool:
        """Tell whether the active run has been told to end."""
        execution = self.executions.get(run.id)
        return (execution is not None and execution.questions.stopping) or await self.commands.stopping(run.id)

    async def _ends_by(self, run_id: str, deadline: float) -> bool:
        """Wait until the run has ended, up to the `deadline` (on the monotonic clock)."""
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                await self.readers.wait(run_id)
        except TimeoutError:
            return False
        return True

    async def _has_more(self, run: RunRecord) -> bool:
        """Tell whether another run stands in the session's queue behind this one."""
        newest = await self.journals.store.list_runs(session_id=run.session_id, limit=1)
        return any(one.id != run.id for one in newest)

    def _begin(
        self,
        record: RunRecord,
        agent: Agent,
        journal: Journal,
        recorder: Recorder,
        request: RunRequest,
        *,
        before: Before | None = None,
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
            self.journals.store,
            self._notices,
            before=before,
            deps=deps,
            output_type=output_type,
        )
        if before is not None and execution.waiting and execution.inbox is not None:
            execution.inbox.know(before.frame.data)
        self.executions[record.id] = execution
        for command, command_id in self._early.pop(record.id, ()):
            self.on_command(record.id, command, command_id)
        if self.draining:  # it was let in before
            self._leave(execution)
        return execution

    async def _execute(self, execution: Execution) -> None:
        try:
            await execution.run()
            if execution.parted and execution.owned:
                await self.give_up(execution.record.id, *execution.left)
                await self.readers.hand_on(execution.record.id, execution.followers)
        finally:
            await self._let_go(execution)

    async def _let_go(self, execution: Execution) -> None:
        """Have nothing to do with the run any more: it has ended, or is another worker's."""
        self.executions.pop(execution.record.id, None)
        await self.journals.disown(execution.journal)

    def spawn(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Let this see to the run, in a task."""
        task = self._tasks[run_id] = asyncio.create_task(work, name=f"gapless-execution-{run_id}")
        task.add_done_callback(functools.partial(self._done, run_id))

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(run_id) is task:
            del self._tasks[run_id]

    # -- runs that others left here, or are left to others ----------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more runs may execute here."""
        return self._limits.runs_active_max - len(self.executions)

    def task_of(self, run_id: str) -> asyncio.Task[None] | None:
        """Return what sees to the run here at the moment."""
        return self._tasks.get(run_id)

    def forget(self, run_id: str) -> None:
        """Drop what was heard of the run before it was to execute."""
        self._early.pop(run_id, None)

    async def execute_from(
        self, record: RunRecord, agent: Agent, journal: Journal, recorder: Recorder, before: Before | None
    ) -> None:
        """Execute a run that another worker had, to its end."""
        request = record.request or RunRequest()
        try:
            await self.loading.load_for_run(agent)
        except GaplessError as error:  # nobody starts it who could be told; the agent says in the run what it lacks
            log.warning("run %s: agent %s is not ready: %s", record.id, record.agent, error.message)
        await self._execute(self._begin(record, agent, journal, recorder, request, before=before))

    async def give_up(self, run_id: str, wanted_at: int | None, what: str) -> None:
        """Leave the run to others, for the reason `what`; it is nobody's then, and wants somebody from `wanted_at` (ms)
        on."""
        self.forget(run_id)
        with contextlib.suppress(WorkerFenced):  # then it is another's anyway
            # However long the store is away: this worker would own it, and nobody execute it.
            released = await patiently(self.journals.store.release, run_id, wanted_at, what, patience_s=math.inf)
            if released and not self.draining:
                self.on_wanted()

    async def claim(self, run: RunRecord, ends_with: GaplessError | None = None) -> None:
        """See to a run that is nobody's, if it can be here. `ends_with` says that it is decided how it ends."""
        if ends_with is not None or self.going_on.claim_if_able(run):
            with contextlib.suppress(WorkerFenced, StoreUnavailable):  # another hears of it
                await self.going_on.claim(run.id, ends_with)

    # -- stopping ---------------------------------------------------------------------------------------------------

    async def drain(self, grace_s: float) -> None:
        """Take no new runs. Leave those that others can go on with to them, each as soon as nothing is lost by it, and
        after `grace_s` seconds at once; let the others finish in that time, and close the rest as `shutting_down`.

        Of those, a run that waits for a person would not finish in that time: it is closed at once. To a live run
        nothing more is said."""
        self.draining = True
        waiting = {run_id for run_id, execution in self.executions.items() if execution.waiting}
        for execution in list(self.executions.values()):
            if self._leave(execution):
                waiting.discard(execution.record.id)
        if self._tasks.keys() - waiting:
            parted = sum(execution.parted for execution in self.executions.values())
            log.info("draining %d runs for at most %.0f s", len(self._tasks.keys() - waiting) - parted, grace_s)
        await self._end_by(self.journals.loop.time() + grace_s, waiting)
        for run_id, execution in list(self.executions.items()):
            if self._can_be_left(execution):
                if grace_s and not execution.fenced:
                    log.warning("run %s: came to no checkpoint in %.0f s, others go on at its last", run_id, grace_s)
                execution.part()
            execution.stop(
                ShuttingDown(
                    "the worker stopped before the run had finished; ask again", run_id=run_id, code="shutting_down"
                )
            )
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=DRAIN_S)

    def _can_be_left(self, execution: Execution) -> bool:
        """Tell whether others can go on with it, or begin it anew."""
        return execution.can_be_left and not self.journals.store.alone

    def _leave(self, execution: Execution) -> bool:
        """Say nothing more to it, and leave it to others as soon as nothing is lost by it; False where they cannot go
        on with it."""
        if execution.live is not None:
            execution.live.hang_up()
        if not self._can_be_left(execution):
            return False
        execution.leave()
        return True

    async def _end_by(self, deadline: float, waiting: Collection[str]) -> None:
        """Wait until nothing executes here any more but the runs `waiting`, up to the `deadline` (on the loop's clock).
        A run that was let in before may begin meanwhile."""
        while pending := [*self._starting, *(task for run_id, task in self._tasks.items() if run_id not in waiting)]:
            _, late = await asyncio.wait(pending, timeout=max(deadline - self.journals.loop.time(), 0))
            if late:
                return

    async def close(self) -> None:
        """End what still runs, and release the journals and the store. Drain first."""
        await end_tasks(list(self._tasks.values()))
        await self.loading.close()
        await self.readers.close()
        await self.conversations.close()
        await self.feeds.close()
        await self.deliveries.close()
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

    def is_over(self, run_id: str) -> bool:
        """Tell whether a live run executes here whose end is on its way: it hears nothing more."""
        execution = self.executions.get(run_id)
        return execution is not None and execution.live is not None and execution.live.over

    def produce(self, run_id: str, batch: Batch) -> asyncio.Future[Taken] | None:
        """Hand a producer's batch to a run that executes here; None for any other. Raises what `Inbox.push`
        raises."""
        execution = self.executions.get(run_id)
        if execution is None or execution.fenced or execution.inbox is None or execution.inbox.closed:
            return None
        return execution.inbox.push(batch)

    def on_command(self, run_id: str, command: bytes, command_id: int = 0) -> None:
        """Act on a command, or keep it for an execution that may be about to begin."""
        execution = self.executions.get(run_id)
        if execution is None or execution.fenced:
            early = self._early.setdefault(run_id, [])
            early.append((command, command_id))
            del early[:-EARLY_COMMANDS_MAX]
            if len(self._early) > EARLY_COMMANDS_MAX:
                del self._early[next(iter(self._early))]
            return
        decoded = decode_command(command)
        execution.act(decoded, command_id)
        if decoded.kind == "followers":
            self._cancel_unless_read(execution)

    def on_fenced(self) -> None:
        """Stop all that executes: this worker has lost its lease, and its runs are others'."""
        for execution in self.executions.values():
            execution.fence()

    def refused(self, run_id: str) -> None:
        """Stop what executes of the run here: it is another's."""
        execution = self.executions.get(run_id)
        if execution is not None:
            execution.fence()

    def _on_left(self, run_id: str) -> None:
        self._cancel_unless_read(self.executions[run_id])

    def _cancel_unless_read(self, execution: Execution) -> None:
        if ends_unread(execution.config):
            self.journals.loop.call_later(LEFT_S, self._cancel_unread, execution)

    def _cancel_unread(self, execution: Execution) -> None:
        """Cancel it if nobody reads it; not while it waits for a person, as a stream may end with the question."""
        if not execution.waiting and not self.readers.counted(execution.record.id) and not execution.followed_elsewhere:
            execution.stop(RunCancelled("cancelled because its last follower left", run_id=execution.record.id))
