"""One run being executed: from its turn in the session to its terminal event.

The agent is iterated in a task of its own (`_pump`, the hot loop). Around it, `run` waits for whatever comes first: the
agent's end, a cancel, a deadline, the loss of the lease. However it ends, exactly one terminal event is written,
together with the session's turn; unless this worker no longer owns the run, then nothing is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import msgspec

from gapless.agents.base import SEE_LOG, Agent, RunContext, log_raised
from gapless.config import RunConfig
from gapless.errors import (
    AgentFailed,
    AgentInvalid,
    GaplessError,
    InputInvalid,
    RunCancelled,
    RunFenced,
    RunLimit,
    RunTimeout,
    is_code,
)
from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    UserMessage,
    text_of,
)
from gapless.fold import Fold
from gapless.journals.contract import WorkerFenced
from gapless.journals.journal import Journal
from gapless.live import LiveRequest, LiveRequestQueue, is_live
from gapless.metrics import Metrics
from gapless.records import RunEnd, RunRecord, RunStatus, Turn
from gapless.runs.recorder import Recorder
from gapless.runs.sound import sound
from gapless.runs.tracing import run_span

__all__ = ["Execution", "end_of"]

CLEANUP_S_MAX = 5.0
"""What a cancelled agent may take to clean up before the run ends without it."""
IDLE_CHECKS = 4
"""How often within `idle_timeout` progress is looked for."""
ELSEWHERE_TIMES = 10
"""So many times the room for what is said to a live run is there for what was said at another worker."""
SAID_IDS_MAX = 1_000
"""Ids of what was said to a live run that are remembered: one that comes again counts once."""

_encode = msgspec.json.Encoder().encode
_decode_end = msgspec.json.Decoder(RunEnd).decode

log = logging.getLogger("gapless.run")


class Execution:
    """Executes one run that this worker owns. `stop` ends it early; `answer` answers its interrupts; `hear` is for a
    live one."""

    def __init__(
        self,
        record: RunRecord,
        journal: Journal,
        agent: Agent,
        config: RunConfig,
        recorder: Recorder,
        make_context: Callable[[Callable[[list[Interrupt]], Awaitable[list[ResumeEntry]]]], Awaitable[RunContext]],
        take_turn: Callable[[], Coroutine[Any, Any, None]],
        metrics: Metrics,
    ) -> None:
        self.record = record
        self.journal = journal
        self.config = config
        self.failure: BaseException | None = None
        """What the agent raised, for callers in this process; clients get its kind, never its text."""
        self._followers: dict[str, tuple[int, int]] = {}
        """Followers at other workers: worker id → (number of its newest report, followers)."""
        self.waiting: list[Interrupt] = []
        """What the run is waiting for a person to answer."""
        self.live = LiveRequestQueue(self._record_said) if is_live(config) else None
        """What is said to a live run."""
        self._said: dict[str, None] = {}
        """The ids of it."""
        self._noticed: set[str] = set()
        self._agent = agent
        self._make_context = make_context
        self._take_turn = take_turn
        self._recorder = recorder
        self._metrics = metrics
        self._span = run_span(record)
        self._stop: asyncio.Future[GaplessError | None] = asyncio.get_running_loop().create_future()
        self._answers: asyncio.Future[list[ResumeEntry]] | None = None
        self._timed = any(s is not None for s in (config.timeout, config.first_event_timeout, config.idle_timeout))
        self._attention: asyncio.Future[None] | None = None
        """Of a run with deadlines: done when what counts for them has changed."""
        self._began_at: int | None = None
        """Position of the newest event when the agent's turn had come."""
        self._context: RunContext | None = None
        self._state_before = b""
        """The session's, as JSON."""
        self._owned = True

    # -- from outside -----------------------------------------------------------------------------------------------

    def stop(self, reason: GaplessError) -> None:
        """End the run with this error as soon as possible. The first reason counts."""
        if not self._stop.done():
            self._stop.set_result(reason)

    @property
    def followed_elsewhere(self) -> bool:
        """Somebody follows it at another worker."""
        return any(count for _, count in self._followers.values())

    def count_followers(self, worker_id: str, number: int, followers: int) -> None:
        """Take another worker's report of how many follow the run there; `number` counts that worker's reports."""
        if number > self._followers.get(worker_id, (0, 0))[0]:
            self._followers[worker_id] = (number, followers)

    @property
    def fenced(self) -> bool:
        """The run belongs to another worker, and what is left here only cleans up."""
        return not self._owned

    def fence(self) -> None:
        """The run belongs to another worker now: stop the agent and write nothing more."""
        self._owned = False
        self._recorder.seal()
        if not self._stop.done():
            self._stop.set_result(None)

    def answer(self, entries: list[ResumeEntry]) -> bool:
        """Answer what the run is waiting for; False if it does not wait, or not for these."""
        if self._answers is None or self._answers.done():
            return False
        asked = {interrupt.id for interrupt in self.waiting}
        if not asked <= {entry.interrupt_id for entry in entries}:
            return False
        self._answers.set_result([entry for entry in entries if entry.interrupt_id in asked])
        return True

    def hear(self, request: LiveRequest, *, elsewhere: bool = False) -> None:
        """Take what is said to a live run. Raises `InputInvalid`, `LimitReached`. Whoever said it to another worker
        cannot be made to wait: there is more room for it, and what is lost all the same is told to everybody."""
        run_id = self.record.id
        if self.live is None:
            raise InputInvalid(
                f"run {run_id} is not live: nothing can be said to it before it has ended", run_id=run_id
            )
        if request.id in self._said:
            return
        try:
            self.live.send(request, times=ELSEWHERE_TIMES if elsewhere else 1)
        except GaplessError as error:
            error.run_id = run_id
            if elsewhere:
                self._notice("input_lost", f"something that was said is lost: {error.message}")
            raise
        if request.id is not None:
            self._said[request.id] = None
            if len(self._said) > SAID_IDS_MAX:
                del self._said[next(iter(self._said))]

    def hang_up(self) -> None:
        """Nothing more is said to a live run: its worker stops."""
        if self.live is not None and not self.live.closed:
            self.live.close()
            self._notice("shutting_down", "the worker stops and hears nothing more; go on in another run")

    def _notice(self, code: str, message: str) -> None:
        """Say something once in the stream, if it has begun and goes on."""
        if code not in self._noticed and self.journal.appended:
            self._noticed.add(code)
            with contextlib.suppress(RunFenced, RunLimit):
                self._recorder.add(CustomEvent(name="gapless.notice", value={"code": code, "message": message}))

    async def _record_said(self, request: LiveRequest) -> None:
        """The agent takes it now: that is its place between what the agent says."""
        for event in self._as_said(request):
            self._recorder.add(event)
        if self.journal.full:  # an agent that only listens is held back here
            await self.journal.drain()

    def _as_said(self, request: LiveRequest) -> list[Event]:
        text = text_of(request.content)
        if not text:
            return []
        which = f"said-{request.id}" if request.id is not None else f"heard-{self.journal.appended + 1}"
        id = f"{self.record.id}-{which}"
        return [
            TextMessageStartEvent(message_id=id, role="user"),
            TextMessageContentEvent(message_id=id, delta=text),
            TextMessageEndEvent(message_id=id),
        ]

    # -- the run ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """To the terminal event, accepted by the store. Raises nothing but a cancel of its own task."""
        try:
            failure = await self._execute()
        except Exception as error:  # a bug; the run must end all the same
            failure = self._as_failure(error)
        if not self._owned:
            self._count("fenced", None)
            return
        failure = self._end(failure)
        await self.journal.settled()
        if self.journal.closed:
            self._count("finished" if failure is None else failure.code, failure)
        else:  # refused: it is another worker's now
            self._owned = False
            self._count("fenced", None)

    def _count(self, outcome: str, failure: GaplessError | None) -> None:
        log.info("run %s: %s after %d events", self.record.id, outcome, self.journal.appended)
        # An agent may choose any code; as a label each would be a series for ever.
        if self._owned:  # else whoever has it counts it
            known = failure is None or is_code(outcome)
            self._metrics.run_ended(self.record.agent, outcome if known else "agent_error")
        self._metrics.event_gap_s.observe(self.journal.gap_max_s)
        self._span.end(self.journal.appended, failure)

    async def _execute(self) -> GaplessError | None:
        """What the run failed with, or None for success."""
        pump = asyncio.create_task(self._pump(), name=f"gapless-run-{self.record.id}")
        try:
            stopped = await self._supervise(pump)
        except Exception:  # a bug; the agent must not go on without its run
            await self._cancel(pump)
            raise
        finally:
            self._recorder.seal()  # what the agent has left running has nothing to say any more
            if self.live is not None:
                self.live.close()
            if self._answers is not None and not self._answers.done():
                self._answers.set_exception(RunFenced(f"run {self.record.id} has ended", run_id=self.record.id))
        if not self._owned:
            return None
        if not self.journal.appended:  # it ends before its turn has come
            self._recorder.start(_now_ms())
        if stopped is not None:
            return stopped.reason
        if (error := _error_of(pump)) is not None:
            return self._as_failure(error)
        return self._own_end()

    def _own_end(self) -> GaplessError | None:
        """How the agent said that it ended, where it said so itself."""
        own, run_id = self._recorder.failure, self.record.id
        if own is not None:
            try:
                own, _ = sound(own)
            except AgentInvalid as error:
                return error
            return AgentFailed(own.message, run_id=run_id, code=own.code)
        outcome = None if self._recorder.finish is None else self._recorder.finish.outcome
        if isinstance(outcome, RunFinishedCancelledOutcome):
            return RunCancelled("the agent ended the run as cancelled", run_id=run_id)
        if isinstance(outcome, RunFinishedInterruptOutcome):
            return AgentInvalid(
                "the agent ended the run with an interrupt; use `await ctx.interrupt(…)`", run_id=run_id
            )
        return None

    async def _pump(self) -> None:
        """The hot loop: what the agent yields goes to the recorder and so to the journal."""
        try:
            await self._take_turn()
        except WorkerFenced:
            self.fence()
            return
        if not self.journal.appended:  # else another worker had begun
            self._recorder.start(_now_ms())
        self._began_at = self.journal.appended
        self._attend()
        self._context = ctx = await self._make_context(self._interrupt)
        self._state_before = _encode(ctx.state)
        if self.journal.appended > 1:  # more than RUN_STARTED: another worker had begun
            self._recorder.restart(ctx.messages, ctx.state)
        journal, add = self.journal, self._recorder.add
        began: float | None = time.monotonic()
        with self._span.current(), _exits_as_errors():
            stream = self._agent.run(ctx)
            try:
                async for item in stream:
                    add(item)
                    if began is not None:
                        self._metrics.first_event_s.observe(time.monotonic() - began)
                        self._span.first_event()
                        began = None
                    if journal.full:
                        await journal.drain()
            finally:
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()

    async def _supervise(self, pump: asyncio.Task[None]) -> _Stopped | None:
        """Wait for the agent's end, a stop or a deadline. Nothing here is paid per event."""
        clock: _Clock | None = None
        wake_s: float | None = None
        while True:
            if self._timed and self._began_at is not None:
                now = asyncio.get_running_loop().time()
                clock = clock or _Clock(self.config, self._began_at, now)
                clock.look(now, self.journal.appended, waiting=bool(self.waiting))
                expired = clock.expired(now)
                if expired is not None:
                    await self._cancel(pump)
                    return _Stopped(RunTimeout(f"the run passed {expired}", run_id=self.record.id))
                wake_s = clock.next_s(now)
            stopped = await self._first(pump, wake_s)
            if stopped is not None or pump.done():
                return stopped

    def _attend(self) -> None:
        """Have the deadlines looked at anew."""
        if self._attention is not None and not self._attention.done():
            self._attention.set_result(None)

    async def _first(self, task: asyncio.Task[None], timeout_s: float | None) -> _Stopped | None:
        """Until the task is done, the run is stopped (then the task is cancelled), the deadlines want attention, or
        the time is up."""
        waited: set[asyncio.Future[Any]] = {task, self._stop}
        if self._timed:
            self._attention = asyncio.get_running_loop().create_future()
            waited.add(self._attention)
        try:
            await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._cancel(task)
            raise
        if not self._stop.done() or task.done():
            return None
        await self._cancel(task)
        return _Stopped(self._stop.result())

    async def _cancel(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=CLEANUP_S_MAX)
        if not done:
            task.add_done_callback(_retrieve)
            log.warning("run %s: the agent did not stop within %.0f s; left behind", self.record.id, CLEANUP_S_MAX)
        elif not task.cancelled() and (error := task.exception()) is not None:
            log.debug("run %s: the agent raised %s while it was stopped", self.record.id, type(error).__name__)

    async def _interrupt(self, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        """Pause the run: RUN_FINISHED with the interrupt outcome, and RUN_STARTED again once they are answered, or
        the agent waits no longer."""
        self._recorder.check_open()
        if self.live is not None:
            raise AgentInvalid(f"run {self.record.id}: a live run waits for no answer; ask, and hear what is said")
        if not interrupts:  # nobody can answer nothing: it would stand still until its timeout
            raise AgentInvalid(f"run {self.record.id}: interrupted without a question")
        self._recorder.pause(self._finished(RunFinishedInterruptOutcome(interrupts=interrupts)))
        self.journal.set_status(RunStatus.WAITING)
        self._answers = asyncio.get_running_loop().create_future()
        self.waiting = list(interrupts)
        self._attend()
        try:
            entries = await self._answers
        except asyncio.CancelledError:  # the agent waits no longer; it may have more to say
            with contextlib.suppress(RunFenced):
                self._go_on([])
            raise
        finally:
            self.waiting, self._answers = [], None
            self._attend()
        self._go_on(entries)
        return entries

    def _go_on(self, answers: list[ResumeEntry]) -> None:
        self._recorder.check_sealed()  # the answers may have come as the run ended
        self.journal.set_status(RunStatus.RUNNING)
        self._recorder.start(_now_ms(), resume=answers)

    # -- its end ----------------------------------------------------------------------------------------------------

    def _end(self, failure: GaplessError | None) -> GaplessError | None:
        """Write the terminal event with the session's turn; returns what the run has ended with.

        What the agent left behind is recorded only if it can be read again; if not, that is how the run failed."""
        try:
            for request in self.live.rest() if self.live is not None else ():  # nobody heard it; it was said
                for said in self._as_said(request):
                    self._recorder.put(said)
            self._recorder.close_open()
            ctx = self._context
            if ctx is not None and _encode(ctx.state) != self._state_before:
                told = self._recorder.fold.state
                if told is None or _encode(told) == self._state_before:
                    self._recorder.leave_state(ctx.state)
            event, end = self._ending(failure, self._context)
        except Exception as error:  # whatever an agent may put there must not keep its run from ending
            kind = type(error).__name__
            log.error("run %s: what agent %s left cannot be recorded: %s", self.record.id, self.record.agent, kind)
            log.debug("run %s", self.record.id, exc_info=error)
            failure = AgentInvalid(
                "the agent's result, state, native turn or usage cannot be written as JSON", run_id=self.record.id
            )
            self._recorder.finish = None
            event, end = self._ending(failure, None)
        self.journal.close(event, end)
        return failure

    def _ending(self, failure: GaplessError | None, ctx: RunContext | None) -> tuple[bytes, RunEnd]:
        """The terminal event and what is recorded with it, both read back. Raises for what cannot be."""
        fold, own = self._recorder.fold, self._recorder.finish
        usage = (_sum_usage(ctx.usage) if ctx is not None else None) or (own.usage if own is not None else None)
        terminal: Event
        if failure is None:
            finished = self._finished(RunFinishedSuccessOutcome())
            if own is not None:
                finished.outcome, finished.result = own.outcome or finished.outcome, own.result
            if ctx is not None and ctx.result is not None:
                finished.result = ctx.result
            finished.usage = usage
            terminal = finished
        elif isinstance(failure, RunCancelled):
            terminal = self._finished(RunFinishedCancelledOutcome())
            terminal.usage = usage
        else:
            terminal = RunErrorEvent(message=failure.message, code=failure.code, usage=usage, timestamp=_now_ms())
        _, event = sound(terminal)
        state, native = (ctx.state or None, ctx.native) if ctx is not None else (None, None)
        if isinstance(fold.state, dict):
            state = fold.state
        end = end_of(self.record, fold, failure, native=native, state=state)
        return event, _decode_end(_encode(end))

    def _finished(
        self,
        outcome: RunFinishedSuccessOutcome | RunFinishedInterruptOutcome | RunFinishedCancelledOutcome,
    ) -> RunFinishedEvent:
        return RunFinishedEvent(
            thread_id=self.record.session_id, run_id=self.record.id, outcome=outcome, timestamp=_now_ms()
        )

    def _as_failure(self, error: BaseException) -> GaplessError:
        """What the run failed with, in terms that a client may see. The exception itself stays in this process."""
        self.failure = error
        run_id = self.record.id
        if isinstance(error, GaplessError) and error.message:
            error.run_id = error.run_id or run_id
            if error.told == error.message:
                return error
            log.error("run %s failed: %s", run_id, error.message)
            return type(error)(error.told, run_id=run_id)
        log_raised(log, run_id, f"agent {self.record.agent}", error)
        failure = AgentFailed(f"the agent raised {type(error).__name__}{SEE_LOG}", run_id=run_id)
        failure.__cause__ = error
        return failure


@contextlib.contextmanager
def _exits_as_errors() -> Iterator[None]:
    """An agent that wants to end the process ends its run: the process has others."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the agent raised {type(error).__name__}") from error


def _retrieve(task: asyncio.Task[None]) -> None:
    """An agent that was left behind has ended after all. Its exception's text is not for the log."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("%s: the agent raised %s after its run had ended", task.get_name(), type(error).__name__)


class _Stopped:
    """The run was stopped; `reason` is None when this worker may write nothing more."""

    __slots__ = ("reason",)

    def __init__(self, reason: GaplessError | None) -> None:
        self.reason = reason


class _Clock:
    """The deadlines of one run. Time spent waiting for a person counts for none of them."""

    def __init__(self, config: RunConfig, appended: int, now: float) -> None:
        self._config = config
        self._first = self._seen = appended
        self._started = self._moved = self._looked = now
        self._waiting = False

    def look(self, now: float, appended: int, *, waiting: bool) -> None:
        if self._waiting:
            self._started += now - self._looked
            self._moved = now
        if appended != self._seen:
            self._seen, self._moved = appended, now
        self._waiting, self._looked = waiting, now

    def _deadlines(self) -> list[tuple[float, str]]:
        config, found = self._config, []
        if self._waiting:
            return []
        if config.timeout is not None:
            found.append((self._started + config.timeout, f"timeout={config.timeout:g} s"))
        if config.first_event_timeout is not None and self._seen == self._first:
            at = self._started + config.first_event_timeout
            found.append((at, f"first_event_timeout={config.first_event_timeout:g} s"))
        if config.idle_timeout is not None:
            found.append((self._moved + config.idle_timeout, f"idle_timeout={config.idle_timeout:g} s"))
        return found

    def expired(self, now: float) -> str | None:
        return next((name for at, name in sorted(self._deadlines()) if at <= now), None)

    def next_s(self, now: float) -> float | None:
        deadlines = self._deadlines()
        if not deadlines:
            return None
        wake_s = min(deadlines)[0] - now
        if self._config.idle_timeout is not None:
            wake_s = min(wake_s, self._config.idle_timeout / IDLE_CHECKS)
        return max(wake_s, 0.0)


def end_of(
    record: RunRecord,
    fold: Fold,
    failure: GaplessError | None,
    *,
    native: bytes | None = None,
    state: dict[str, Any] | None = None,
) -> RunEnd:
    """What is recorded with a run's terminal event: its status and the session's turn, what was shown marked as
    interrupted where the run was cut short.

    The turn of a run that ended before it began is empty: no agent has seen its message, and it may end before the
    run does that it waited for."""
    error = None if failure is None else {"code": failure.code, "message": failure.message}
    status = RunStatus.FINISHED
    if failure is not None:
        status = RunStatus.CANCELLED if isinstance(failure, RunCancelled) else RunStatus.FAILED
    metadata = {"run_id": record.id}
    user = record.input or UserMessage(id=f"{record.id}-user", content=record.message)
    user = msgspec.structs.replace(user, metadata={**(user.metadata or {}), **metadata})
    asked = [] if is_live(record.config) and not user.content else [user]
    messages = [*asked, *fold.messages(metadata=metadata, interrupted=error)]
    if record.status is RunStatus.QUEUED:
        messages = []
    turn = Turn(run_id=record.id, messages=msgspec.Raw(msgspec.json.encode(messages)), native=native)
    return RunEnd(status=status, ended_at=_now_ms(), turn=turn, error=error, state=state)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    if task.cancelled():  # the agent cancelled itself: nobody here asked for it
        return asyncio.CancelledError("the agent was cancelled from inside")
    return task.exception()


def _sum_usage(usage: list[TokenUsage]) -> list[TokenUsage] | None:
    """One entry per provider and model."""
    total: dict[tuple[str | None, str | None], TokenUsage] = {}
    for one in usage:
        key = (one.provider, one.model)
        known = total.get(key)
        if known is None:
            total[key] = msgspec.structs.replace(one)
            continue
        for field in one.__struct_fields__:
            value = getattr(one, field)
            if isinstance(value, int):
                setattr(known, field, (getattr(known, field) or 0) + value)
    return list(total.values()) or None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
