"""One run being executed: from its turn in the session to its terminal event.

The agent is iterated in a task of its own (`_pump`, the hot loop). Around it, `run` waits for whatever comes first: the
agent's end, a cancel, a deadline, the loss of the lease. However it ends, exactly one terminal event is written,
together with the session's turn; unless this worker no longer owns the run, then nothing is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import msgspec

from gapless.agents.base import Agent, AgentItem, RunContext, as_current
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    InputInvalid,
    RunCancelled,
    RunTimeout,
)
from gapless.events import Interrupt
from gapless.journals.contract import Store, WorkerFenced
from gapless.journals.journal import Journal
from gapless.live import LiveRequest, is_live
from gapless.metrics import Metrics
from gapless.moves import HANDED_OVER, PARKED
from gapless.records import RunRecord, RunRequest, RunStatus, now_ms
from gapless.runs.blobs import LARGE, BlobsOfRun
from gapless.runs.checkpoints import Before, Standing, warn_of_unkept
from gapless.runs.commands import Command
from gapless.runs.deadlines import Deadlines
from gapless.runs.ending import as_failure, ending, label_of, leave_state, log_end, own_end, unanswered
from gapless.runs.inbox import Elsewhere, Inbox
from gapless.runs.live_input import LiveInput
from gapless.runs.notices import Notices
from gapless.runs.questions import Questions
from gapless.runs.readers import ends_unread
from gapless.runs.recorder import Recorder
from gapless.runs.rehearsal import Rehearsal
from gapless.runs.sessions import Sessions
from gapless.runs.tracing import run_span

__all__ = ["Execution", "Raised"]

PARK_AFTER_S = 5.0
"""A run that waits for a person is nobody's after this, and costs nothing."""
CLEANUP_S_MAX = 5.0
"""What a cancelled agent may take to clean up before the run ends without it."""

_encode = msgspec.json.Encoder().encode

log = logging.getLogger("gapless.run")


class Raised:
    """What a run's agent raised, for callers in this process; clients get its kind, never its text."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None


class Execution:
    """Executes one run that this worker owns. `act` takes commands for it, `stop` ends it early.

    `recorder` has seen what other workers recorded of the run, if they did, and `before` says from where this one goes
    on. `deps` and `output_type` are for the agent, as `Runner.start` takes them."""

    def __init__(
        self,
        record: RunRecord,
        journal: Journal,
        agent: Agent,
        recorder: Recorder,
        request: RunRequest,
        sessions: Sessions,
        metrics: Metrics,
        store: Store,
        notices: Notices,
        *,
        before: Before | None = None,
        deps: Any = None,
        output_type: Any = None,
    ) -> None:
        assert record.config is not None, "the runner records it"
        self.record, self.journal = record, journal
        self.config = record.config
        self.raised = Raised()
        self.heard = 0
        """Id of the newest command that the store keeps and that was heard: one that is not newer is a repeat."""
        self.parted = False
        """The run is left to other workers, at its last checkpoint."""
        self.left: tuple[int | None, str] = (0, HANDED_OVER)
        """When (ms) it wants somebody, once it is left: when its question expires, or at once; and why it is left."""
        self.live = LiveInput(record.id, journal, recorder) if is_live(record.config) else None
        self.followers: dict[str, tuple[int, int]] = {}
        """Followers at other workers: worker id → (number of its newest report, followers)."""
        self._blobs = BlobsOfRun(store, journal, recorder.limits, record.config.public_url)
        self.inbox = Inbox(journal, Rehearsal(record, recorder, self._blobs)) if isinstance(agent, Elsewhere) else None
        """What takes a producer's batches, where the run is executed elsewhere."""
        self._agent = self.inbox or agent
        self._request, self._sessions, self._recorder = request, sessions, recorder
        self._metrics, self._notices = metrics, notices
        self._deps, self._output_type = deps, output_type
        self._span = run_span(record)
        self._deadlines = Deadlines(record.config)
        self._stopped: _Stopped | None = None
        self.questions = Questions(
            record,
            journal,
            recorder,
            store,
            notices,
            self._deadlines.attend,
            known=() if before is None else before.questions,
            closed=0 if before is None else before.frame.questions,
        )
        self._before = before
        self._standing: Standing | None = None
        """None where nobody else can go on with the run."""
        if self.config.on_worker_lost == "continue":
            self._standing = Standing(journal, recorder, agent.framework, self.part, before.frame if before else None)
        self._began: float | None = None
        """When the agent was called, until its first event."""
        self._context: RunContext | None = None
        self._state_before = b""
        """The session's, as JSON."""
        self._owned = True
        self._ended: _Stopped | None = None  # what it has ended with, once its end was handed over

    # -- from outside -----------------------------------------------------------------------------------------------

    def stop(self, reason: GaplessError | None) -> None:
        """End the run with this error as soon as possible; None: write nothing more. The first reason counts."""
        if self._stopped is None:
            self._stopped = _Stopped(reason)
            self._deadlines.attend()

    def act(self, command: Command, command_id: int = 0) -> None:
        """Do what a command asks. One that the store keeps has an id, and is kept until its effect is recorded."""
        run_id = self.record.id
        if command_id:
            if command_id <= self.heard:
                return
            self.heard = command_id
        if command.kind in ("cancel", "expired"):
            self.stop(RunCancelled("cancelled", run_id=run_id) if command.kind == "cancel" else unanswered(run_id))
            return
        if self.questions.hear(command, command_id) or (self.inbox and self.inbox.hear(command.batch, command_id)):
            return
        if command_id:
            self.journal.take(command_id)
        if command.kind == "followers":
            if command.number > self.followers.get(command.worker_id, (0, 0))[0]:
                self.followers[command.worker_id] = (command.number, command.followers)
        elif command.kind == "live" and command.said is not None:
            try:
                self.push(command.said, relayed=True)
            except GaplessError as error:
                log.warning("run %s: what was said at another worker is lost: %s", run_id, error.code)

    @property
    def followed_elsewhere(self) -> bool:
        """Somebody follows it at another worker."""
        return any(count for _, count in self.followers.values())

    @property
    def owned(self) -> bool:
        """The run is this worker's."""
        return self._owned

    @property
    def fenced(self) -> bool:
        """The run belongs to another worker or is left to others, and what is left here only cleans up."""
        return self.parted or not self._owned

    @property
    def waiting(self) -> list[Interrupt]:
        """What the run is waiting for a person to answer."""
        return self.questions.waiting

    @property
    def can_be_left(self) -> bool:
        """Another worker can go on with it, or begin it anew."""
        return self._standing is not None or self.config.on_worker_lost == "restart"

    def leave(self) -> None:
        """Leave the run to other workers as soon as nothing is lost by it: at its agent's next save, or now where it
        waits for its turn, for a person or a producer, or nothing of it was done yet."""
        idle = self.waiting or (self.inbox is not None and self.inbox.idle)
        if self._context is None or (idle and self._standing is not None):  # its agent was not called, or waits
            self.part()
        elif self._standing is not None:
            self._standing.leaving = True

    def part(self) -> None:
        """Leave the run to other workers, at its last checkpoint. Its agent is stopped and says nothing more."""
        if self._owned and self._stopped is None and self._ended is None:
            self.parted = True
            self.left = (self.questions.due_at, PARKED) if self.waiting else (0, HANDED_OVER)
            self._recorder.seal()
            self.stop(None)

    def fence(self) -> None:
        """Stop the agent and write nothing more: the run belongs to another worker now."""
        self._owned = False
        self._recorder.seal()
        self.stop(None)

    def push(self, request: LiveRequest, *, relayed: bool = False) -> None:
        """Take input of a live run, `relayed` by another worker or said here. Raises `InputInvalid`, `LimitReached`."""
        if self.live is None:
            run_id = self.record.id
            raise InputInvalid(f"run {run_id} is not live: nothing is said to it before it has ended", run_id=run_id)
        self.live.push(request, relayed=relayed)

    # -- the run ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Execute it to the terminal event, accepted by the store. Raises nothing but a cancel of its own task."""
        try:
            await self._run()
        finally:
            # What refers to this run's agent, or was raised in it, refers to this: a circle would keep all that the run
            # was told and has said until the collector comes by, which is rarely in a server.
            self._context = self._standing = None
            self.raised = Raised()

    async def _run(self) -> None:
        try:
            failure = await self._execute()
        except Exception as error:  # a bug; the run must end all the same
            self.raised.error = error
            failure = as_failure(self.record, error)
        if self._ended is None:
            await self._sessions.ends.turn()
            if self.parted and self._owned:
                await self.journal.settled()
            if self.fenced:
                self._count("left" if self.parted and self._owned else "fenced", None)
                return
            failure = self._end(failure)
            self._ended = _Stopped(None)  # without the failure: its traceback holds this
        await self.journal.settled()
        if self.journal.closed:
            self._count("finished" if failure is None else failure.code, failure)
        else:  # refused: it is another worker's now
            self._owned = False
            self._count("fenced", None)

    def _count(self, outcome: str, failure: GaplessError | None) -> None:
        log_end(log, self.record, outcome, self.journal.appended)
        if not self.fenced:  # else whoever has it counts it
            self._metrics.run_ended(self.record.agent, label_of(outcome, failure), self.record.usage or ())
        self._metrics.event_gap_s.observe(self.journal.gap_max_s)
        self._span.end(self.journal.appended, failure)

    async def _execute(self) -> GaplessError | None:
        """Return what the run failed with, or None for success."""
        if self.record.status is RunStatus.RUNNING and not self.journal.appended and self._stopped is None:
            self._begin()  # here already: who waits for the deadlines need not be told then
        pump = asyncio.create_task(self._pump(), name=f"gapless-run-{self.record.id}")
        pump.add_done_callback(lambda _: self._sessions.returns.call(self._deadlines.attend))
        try:
            stopped = await self._supervise(pump)
        except Exception:  # a bug; the agent must not go on without its run
            await self._cancel(pump)
            raise
        finally:
            self._shut()
        if self._ended is not None:
            return self._ended.reason
        if self.fenced:
            _retrieve(pump)
            return None
        if not self.journal.appended:  # it ends before its turn has come
            self._recorder.start(now_ms())
        if stopped is not None:
            return stopped.reason
        if (error := _error_of(pump)) is not None:
            self.raised.error = error
            return as_failure(self.record, error)
        return own_end(self.record.id, self._recorder)

    async def _pump(self) -> None:
        """Pump, in the hot loop: what the agent yields goes to the recorder and so to the journal."""
        try:
            if self.record.status is RunStatus.QUEUED:
                await self._sessions.take_turn(self.record, self.config)
        except WorkerFenced:
            self.fence()
            return
        again = not self._deadlines.begun and self.journal.appended > 1  # another has written more than RUN_STARTED
        if not self._deadlines.begun:
            self._begin()
        self._context = ctx = await _context_of(self)
        self._state_before = _encode(ctx.state)
        await self._go_on(ctx, again=again)
        journal, recorder = self.journal, self._recorder
        self._began, first = time.monotonic(), True
        with self._span.current(), _ExitsAsErrors(), as_current(ctx):
            stream = self._agent.run(ctx)
            try:
                async for item in stream:
                    if type(item) is not str and type(item) in LARGE:
                        await self._blobs.record(item, recorder)
                    else:
                        recorder.add(item)
                    if first:
                        self._first_event()
                        first = False
                    if journal.full:
                        await journal.drain()
            finally:
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()
        if self._stopped is None and not self.questions.stopping and self._sessions.ends.passes():
            # In the step in which it has returned: so its last words and its end are one group, and one write.
            self._shut()
            self._ended = _Stopped(self._end(own_end(self.record.id, self._recorder)))
        else:
            journal.hold_for_end()

    def _begin(self) -> None:
        """Begin, as the run's turn has come: from here on its time counts."""
        if not self.journal.appended:
            self.journal.hold(partial(_write_start, self._recorder, self._standing))
        if self.live is not None:
            self.live.begun()
        used_s = 0.0 if self._before is None else self._before.frame.used_s
        self._deadlines.begin(self.journal.appended, asyncio.get_running_loop().time(), used_s)

    async def _go_on(self, ctx: RunContext, *, again: bool) -> None:
        """Go on where another worker left the run, if one had begun it: at its checkpoint, or `again`."""
        before = self._before
        if before is not None:
            if self.waiting:
                await self.questions.answered()
            self._recorder.go_on()
            self._recorder.go_back(ctx.messages, ctx.state, before.frame.half)
            ctx.checkpoint, ctx.usage = before.frame.data, list(before.frame.usage)
            if before.frame.state is not None:
                ctx.state = before.frame.state
        elif again:
            self._recorder.restart(ctx.messages, ctx.state)
        if self._standing is not None:
            self._standing.begin(ctx, self._state_before, self._deadlines, self.questions)

    def _first_event(self) -> None:
        if self._began is not None:
            self._metrics.first_event_s.observe(time.monotonic() - self._began)
            self._span.first_event()
            self._began = None
            self.journal.hurry()

    async def _supervise(self, pump: asyncio.Task[None]) -> _Stopped | None:
        """Wait for the agent's end, a stop or a deadline. Nothing here is paid per event."""
        wake_s: float | None = None
        while True:
            if self._deadlines.begun:
                now = asyncio.get_running_loop().time()
                self._deadlines.look(now, self.journal.appended, waiting=bool(self.waiting))
                passed = self._deadlines.passed(now)
                if passed is not None:
                    await self._cancel(pump)
                    return _Stopped(RunTimeout(f"the run passed {passed}", run_id=self.record.id))
                wake_s = await self._attend_question(now) if self.waiting else self._deadlines.next_s(now)
            stopped = await self._first(pump, wake_s)
            if stopped is not None or pump.done():
                return stopped

    async def _attend_question(self, now: float) -> float | None:
        """See to a question that is open: in time the run is parked, or fails as nobody has answered. Returns in how
        many seconds to look again; None for when something changes."""
        questions = self.questions
        if self._standing is not None and self._standing.leaving:  # it asks without a save before: it is left here
            self.part()
            return None
        left_s = []
        if questions.due_at is not None:
            left_s.append((questions.due_at - now_ms()) / 1000)
            if left_s[0] <= 0:
                questions.due_at = None
                if await questions.decide("expired"):
                    self.stop(unanswered(self.record.id))
                return None
        if self._may_park:
            left_s.append(questions.since_s + PARK_AFTER_S - now)
            if left_s[-1] <= 0:
                self.part()
                return None
        return min(left_s, default=None)

    @property
    def _may_park(self) -> bool:
        """Nothing is said again when another worker goes on, and nobody here counts who follows."""
        return self._standing is not None and self._standing.rested and not ends_unread(self.config)

    async def _first(self, task: asyncio.Task[None], timeout_s: float | None) -> _Stopped | None:
        """Wait until the task is done, the run is stopped (then the task is cancelled), the deadlines want attention,
        or the time is up."""
        if self._stopped is None and not task.done():
            try:
                await self._deadlines.changed(timeout_s)
            except asyncio.CancelledError:
                await self._cancel(task)
                raise
        if self._stopped is None or task.done():
            return None
        await self._cancel(task)
        return self._stopped

    async def _cancel(self, task: asyncio.Task[None]) -> None:
        self.questions.stopping = True
        await _stop_agent(task, self.record.id)

    async def _emit(self, item: AgentItem) -> None:
        await self._blobs.record(item, self._recorder)
        self._first_event()
        if self.journal.full:
            await self.journal.drain()

    # -- its end ----------------------------------------------------------------------------------------------------

    def _shut(self) -> None:
        """Take nothing more, from what the agent has left running or from outside."""
        self._recorder.seal()
        if self.live is not None:
            self.live.end()
        self.questions.close()
        if self.inbox is not None:
            self.inbox.close(left=self.fenced)

    def _end(self, failure: GaplessError | None) -> GaplessError | None:
        """Write the terminal event with the session's turn; returns what the run has ended with.

        What the agent left behind is recorded only if it can be read again; if not, that is how the run failed."""
        try:
            if self.live is not None:
                self.live.record_rest()
            self._recorder.end(failure)
            ctx = self._context
            if ctx is not None:
                leave_state(self._recorder, ctx.state, self._state_before)
            failure, event, end = ending(self.record, self._recorder, failure, ctx)
        except Exception as error:  # whatever an agent may put there must not keep its run from ending
            kind = type(error).__name__
            log.error("run %s: what agent %s left cannot be recorded: %s", self.record.id, self.record.agent, kind)
            log.debug("run %s", self.record.id, exc_info=error)
            failure = AgentInvalid(
                "the agent's result, state, native turn or usage cannot be written as JSON", run_id=self.record.id
            )
            self._recorder.finish = None
            failure, event, end = ending(self.record, self._recorder, failure, None)
        self.record.usage = end.usage
        self.journal.tell(self._notices.of_end(self.record, self.journal.appended + 1, end))
        self.journal.close(event, end)
        return failure


class _ExitsAsErrors:
    """Turns exits into errors: an agent that wants to end the process ends its run, the process has others."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise RuntimeError(f"the agent raised {type(error).__name__}") from error


async def _context_of(run: Execution) -> RunContext:
    """Read what a run's agent is told, now that its turn has come."""
    record, request, agent, standing = run.record, run._request, run._agent, run._standing
    assert record.input is not None, "the runner records it"
    history = await run._sessions.history(record, request, ready=agent.reads_messages)
    return RunContext(
        run_id=record.id,
        session_id=record.session_id,
        user_id=record.user_id,
        agent_name=record.agent,
        content=record.input.content,
        messages=history.messages,
        native_history=history.native,
        native_left=history.left,
        config=run.config,
        state=history.state,
        tools=request.tools,
        context=request.context,
        forwarded_props=request.forwarded_props,
        interrupt=(standing or run.questions).ask,
        save=None if standing is None else standing.save,
        emit=run._emit,
        left=lambda: run.fenced and run.config.on_worker_lost == "continue",
        leaving=lambda: run._standing is not None and run._standing.leaving,
        ids_after=run.journal.appended if run._before is not None else 0,
        deps=run._deps,
        output_type=run._output_type,
        live=run.live,
        unkept=None if agent.continues == "from_checkpoint" else partial(warn_of_unkept, record),
    )


def _write_start(recorder: Recorder, standing: Standing | None) -> None:
    """Write RUN_STARTED, and with it that the run can be begun from its start. It goes with the agent's first event."""
    recorder.start(now_ms())
    if standing is not None:
        standing.first()


async def _stop_agent(task: asyncio.Task[None], run_id: str) -> None:
    """Cancel the agent and give it `CLEANUP_S_MAX` to clean up; then it is left behind."""
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=CLEANUP_S_MAX)
    if not done:
        task.add_done_callback(_retrieve)
        log.warning("run %s: the agent did not stop within %.0f s; left behind", run_id, CLEANUP_S_MAX)
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.debug("run %s: the agent raised %s while it was stopped", run_id, type(error).__name__)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Retrieve the end of an agent that was left behind. Its exception's text is not for the log."""
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        log.debug("%s: the agent raised %s after its run had ended", task.get_name(), type(error).__name__)


class _Stopped:
    """The run was stopped; `reason` is None when this worker may write nothing more."""

    __slots__ = ("reason",)

    def __init__(self, reason: GaplessError | None) -> None:
        self.reason = reason


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    if task.cancelled():  # the agent cancelled itself: nobody here asked for it
        return asyncio.CancelledError("the agent was cancelled from inside")
    return task.exception()
