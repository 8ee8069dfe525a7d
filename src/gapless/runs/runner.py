"""The runner: starts, attaches to and cancels runs, keeps their sessions, closes the runs of workers that died."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack, overload

import msgspec

from gapless.agents import adapt
from gapless.agents.base import Agent, RunContext
from gapless.config import Limits, RunConfig, StreamingMode
from gapless.errors import (
    AgentInvalid,
    AgentNotFound,
    CursorExpired,
    GaplessError,
    InputInvalid,
    InputTooLarge,
    LimitReached,
    RunCancelled,
    RunConflict,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
    ShuttingDown,
    StoreUnavailable,
    UsageError,
    WorkerLost,
)
from gapless.events import (
    Context,
    Event,
    Interrupt,
    Message,
    ResumeEntry,
    RunAgentInput,
    RunErrorEvent,
    RunStartedEvent,
    Tool,
    UserMessage,
    decode_event,
    encode_event,
    interrupts_in,
    text_of,
)
from gapless.journals import open_store
from gapless.journals.contract import Store, WorkerFenced
from gapless.journals.journal import (
    PAGE_EVENTS,
    Journal,
    Journals,
    end_tasks,
)
from gapless.live import LiveRequest, LiveRequestQueue, is_live
from gapless.message import user_message
from gapless.metrics import Metrics
from gapless.records import RunRecord, RunRequest, RunStatus, SessionRecord, Turn, branch, session_taken
from gapless.runs.commands import Command, decode_command
from gapless.runs.execution import Execution, end_of
from gapless.runs.patience import patiently
from gapless.runs.readers import Readers, ends_unread
from gapless.runs.recorder import Recorder
from gapless.runs.run import Run, RunStream
from gapless.runs.sound import sound

__all__ = ["Runner", "new_id"]

LEASE_S = 10.0
"""A worker that has not renewed for so long has lost its runs."""
RENEWALS_PER_LEASE = 4
WATCH_S = 0.5
"""How often the other workers' beats are looked at."""
RESTARTS_MAX = 3
"""A run whose worker is lost more often than this is closed, whatever was asked for: it may be what kills them."""
DRAIN_S = 10.0
"""What runs get to finish when the runner closes."""
RETENTION_S = 7 * 24 * 3600.0
"""Events of ended runs are kept for so long; their records and the sessions stay."""
EXPIRE_EVERY_S = 600.0
LEFT_S = 0.1
"""A run with `on_disconnect="cancel"` that nobody reads any more is cancelled after this: who has just begun to read it
at another worker is heard of within that time."""
SPEAK_AGAIN_S = 0.05
"""How soon a live run that is far behind what was said is spoken to again."""
EARLY_COMMANDS_MAX = 1_000
"""Runs whose commands are kept for an execution that is about to begin, and commands of each; the oldest are dropped
first."""
ID_CHARS_MAX = 96
"""With the position after it, an id stays within the 128 bytes that every SSE client remembers."""

_ID = re.compile(rf"(?!\.{{1,2}}\Z)[A-Za-z0-9._~@:+=-]{{1,{ID_CHARS_MAX}}}")
"""Not `.` or `..`: clients take these out of a path (RFC 3986, section 5.2.4), and `/runs/../cancel` is `/cancel`."""
_ANONYMOUS = "anonymous"
_OutputT = TypeVar("_OutputT")
_T = TypeVar("_T")

log = logging.getLogger("gapless.runner")


_decode_messages = msgspec.json.Decoder(list[Message]).decode


class AskOptions(TypedDict, total=False):
    """What `Runner.run` takes beside the message, the agent and the session: see `run_async`."""

    run_config: RunConfig | None
    new_message: object
    session_id: str | None
    user_id: str
    run_id: str | None
    deps: Any


class StartOptions(TypedDict, total=False):
    """What `Runner.run_stream` takes beside the message and the output's type: see `start`."""

    agent: object
    session_id: str | None
    run_id: str | None
    user_id: str
    config: RunConfig | None
    deps: Any
    messages: list[Message] | None
    state: dict[str, Any] | None
    tools: list[Tool] | None
    context: list[Context] | None
    forwarded_props: Any


class Runner:
    """Runs agents and journals what they say.

    `agent` is one agent of any kind that `gapless.agents.adapt` takes, or several by name. `store` is a store URL or a
    `Store`. The runner opens itself at its first use and belongs to the event loop of that moment; `close` it, or use
    it as an async context manager.

    Raises `AgentInvalid`, `AgentNotFound`, `ExtraMissing`, `UsageError` for what it is given.
    """

    def __init__(
        self,
        agent: object = None,
        *,
        agents: Mapping[str, object] | None = None,
        app_name: str | None = None,
        store: str | Store = "memory://",
        config: RunConfig | None = None,
        limits: Limits | None = None,
        lease_s: float = LEASE_S,
        retention_s: float | None = RETENTION_S,
        session_service: object = None,
    ) -> None:
        self.agents: dict[str, Agent] = {}
        if agent is not None:
            adapted = adapt(agent)
            self.agents[app_name or adapted.name] = adapted
        for name, one in (agents or {}).items():
            self.agents[name] = adapt(one, name)
        self.app_name = app_name or next(iter(self.agents), "gapless")
        self.config = config or RunConfig()
        self.limits = limits or Limits()
        self.store = open_store(store)
        self.metrics = Metrics()
        self.journals = Journals(
            self.store,
            on_refused=self._on_refused,
            on_command=self._on_command,
            on_fenced=self._on_fenced,
            metrics=self.metrics,
        )
        self.executions: dict[str, Execution] = {}
        """The runs that this worker executes."""
        self.readers = Readers(self.journals, self.executions.__contains__, self._on_left)
        self._lease_s = lease_s
        self._retention_s = retention_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Who writes a run here: its execution, or who closes it for a worker that is gone."""
        self._keeper: asyncio.Task[None] | None = None
        self._opening: asyncio.Lock | None = None
        self._open = False
        self._draining = False
        self._early: dict[str, list[bytes]] = {}
        """Commands for runs that may be about to be executed here: one can come before the answer to who owns it."""
        if session_service is not None:
            self._give_session_service(session_service)

    def _give_session_service(self, service: object) -> None:
        for agent in self.agents.values():
            agent.use_session_service(service)

    @property
    def worker_id(self) -> str:
        """The id under which this worker has its lease; another one after the lease was lost. Empty until `open`."""
        return self.journals.worker_id

    @property
    def failing(self) -> bool:
        """The store takes nothing at the moment."""
        return self.journals.failing

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call this on the runner's event loop, from any thread."""
        self.journals.loop.call_soon_threadsafe(callback)

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Open the store and begin renewing this worker's lease. Idempotent; every method calls it.

        Raises `StoreUnavailable`, `StoreCorrupt`."""
        if self._open:
            return self
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            if not self._open:
                await self.journals.open(new_id())
                self._keeper = asyncio.create_task(self._keep(), name="gapless-keeper")
                self._open, self._draining = True, False
        return self

    async def load(self) -> None:
        """Let the agents make ready what would hold all runs up when the first of them needs it. One that cannot fails
        its runs, and says why in the log."""
        for name, agent in self.agents.items():
            try:
                await agent.load()
            except Exception as error:
                why = error if isinstance(error, GaplessError) else type(error).__name__
                log.warning("agent %s is not ready: %s", name, why)
                log.debug("agent %s", name, exc_info=error)

    def refuse_new(self) -> None:
        """Take no new runs; those that are active go on."""
        self._draining = True

    async def drain(self, grace_s: float = DRAIN_S) -> None:
        """Take no new runs, let the active ones finish for `grace_s` seconds, close the rest as `shutting_down`.

        A run that waits for a person would not finish in that time: it is closed at once. To a live run nothing more is
        said."""
        self.refuse_new()
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

    async def close(self, grace_s: float = 0.0) -> None:
        """Drain, then release everything. Idempotent."""
        if not self._open:
            return
        await self.drain(grace_s)
        self._open = False
        tasks = list(self._tasks.values())
        if self._keeper is not None:
            tasks.append(self._keeper)
        await end_tasks(tasks)
        await self.readers.close()
        await self.journals.close()
        for agent in self.agents.values():
            await agent.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- starting ---------------------------------------------------------------------------------------------------

    async def start(
        self,
        message: object,
        *,
        agent: object = None,
        session_id: str | None = None,
        run_id: str | None = None,
        user_id: str = _ANONYMOUS,
        config: RunConfig | None = None,
        deps: Any = None,
        output_type: Any = None,
        messages: list[Message] | None = None,
        state: dict[str, Any] | None = None,
        tools: list[Tool] | None = None,
        context: list[Context] | None = None,
        forwarded_props: Any = None,
        fingerprint: object = None,
    ) -> Run:
        """Start a run, or come back to the one that has `run_id` already.

        `message` is text, a list of AG-UI content parts, a `UserMessage`, or an ADK/Gemini content object. One with the
        id of a message that the session has already is asked in its place, and has no history of what followed that.
        `messages` replaces the session's history for this run, for clients that keep their own (the new user message is
        `message` all the same). `fingerprint` (JSON values) is what this request is told from another by under the same
        id, where `messages` are made of more than the request, such as of a session that grows. The run goes on whether
        or not anyone follows it.

        Raises `RunConflict` (the id belongs to another request), `SessionBusy`, `SessionNotFound` (of another user),
        `AgentNotFound`, `InputInvalid`, `InputTooLarge`, `LimitReached`, `ShuttingDown`, `StoreUnavailable`.
        """
        await self.open()
        name, adapted = self._agent(agent)
        config = config or self.config
        live = is_live(config)
        asked = UserMessage(id="", content="") if live and not message else user_message(message)
        text = text_of(asked.content)
        if len(text) > self.limits.message_chars_max:
            raise InputTooLarge(f"the message is over message_chars_max={self.limits.message_chars_max} characters")
        if live and not adapted.live:
            raise InputInvalid(
                f"agent {name} cannot be spoken to while it speaks: streaming_mode is sse or none for it"
            )
        if live and config.on_worker_lost == "restart":
            raise InputInvalid('a live run cannot be restarted, for nobody says it all again: on_worker_lost is "fail"')
        if config.on_worker_lost == "restart" and deps is not None:
            raise UsageError('deps= live in this process; a run with on_worker_lost="restart" cannot have them')
        told_by = messages if fingerprint is None else fingerprint
        digest = _digest(name, user_id, session_id, asked.content, _changes(self.config, config), told_by, tools)
        if run_id is not None:
            _check_id(run_id, "run")
            known = await self.store.get_run(run_id)
            if known is not None:
                return self._come_back(known, digest, user_id)
        run_id = run_id or new_id()
        if self._draining:
            raise ShuttingDown("this worker is stopping; try again, another one will answer", retry_after_s=1)
        self._admit(user_id)
        if session_id is not None:
            _check_id(session_id, "session")
            session = await self.store.get_session(session_id)
            if session is not None and session.user_id != user_id:
                raise session_taken(session_id)
        session_id = session_id or _session_for(run_id, user_id)
        if not asked.id:
            asked.id = f"{run_id}-user"
        request = RunRequest(
            messages=messages, state=state, tools=tools, context=context, forwarded_props=forwarded_props
        )
        record = RunRecord(
            id=run_id,
            session_id=session_id,
            user_id=user_id,
            agent=name,
            message=text,
            created_at=_now_ms(),
            digest=digest,
            input=asked,
            config=config,
            request=request if config.on_worker_lost == "restart" else None,
        )
        worker_id = self.worker_id
        with _lease_wanted(run_id):
            try:
                record, created = await self.store.create_run(record, reject_busy=config.on_busy == "reject")
            except SessionBusy as error:
                raise await self._busy(error) from None
        if not created:
            return self._come_back(record, digest, user_id)
        if self.worker_id != worker_id:  # the lease was lost meanwhile, and the run with it: another worker has it now
            return Run(self, record)
        journal = self.journals.create(run_id)
        recorder = Recorder(journal, run_id, session_id, self.limits)
        execution = self._begin(record, adapted, journal, recorder, request, deps=deps, output_type=output_type)
        self._spawn(run_id, self._execute(execution))
        return Run(self, record, execution)

    async def _busy(self, error: SessionBusy) -> SessionBusy:
        """The same, saying more of a run that would go on for as long as nobody answers it."""
        with contextlib.suppress(GaplessError):
            if error.run_id is not None and (await self.get_run(error.run_id)).status is RunStatus.WAITING:
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
        """The execution of a run that this worker owns: a new one, or one that another worker had begun."""
        config, asked = record.config, record.input
        assert config is not None, "the runner records it"
        assert asked is not None, "the runner records it"

        async def make_context(interrupt: Callable[[list[Interrupt]], Awaitable[list[ResumeEntry]]]) -> RunContext:
            turns, state = list[Turn](), request.state
            if record.session_id != _session_for(record.id, record.user_id):  # else it is new, and this run's alone
                if request.messages is None:
                    turns = await patiently(self.store.turns, record.session_id)
                if state is None:
                    session = await patiently(self.store.get_session, record.session_id)
                    state = None if session is None else dict(session.state)
            earlier = functools.cache(lambda: branch(turns, asked.id))  # a long history is read for those who read it
            return RunContext(
                run_id=record.id,
                session_id=record.session_id,
                user_id=record.user_id,
                agent_name=record.agent,
                content=asked.content,
                messages=lambda: [*self._earlier(request.messages, earlier()), asked],
                native_history=lambda: [turn.native for turn in earlier() if turn.native is not None],
                config=config,
                interrupt=interrupt,
                deps=deps,
                output_type=output_type,
                state=state,
                tools=request.tools,
                context=request.context,
                forwarded_props=request.forwarded_props,
                live=execution.live,
            )

        async def take_turn() -> None:
            if record.status is RunStatus.QUEUED:
                await self._take_turn(record, interrupt=config.on_busy == "interrupt")

        execution = Execution(record, journal, agent, config, recorder, make_context, take_turn, self.metrics)
        self.executions[record.id] = execution
        for command in self._early.pop(record.id, ()):
            self._on_command(record.id, command)
        return execution

    async def _execute(self, execution: Execution) -> None:
        try:
            await execution.run()
        finally:
            self.executions.pop(execution.record.id, None)
            await self.journals.disown(execution.journal)

    def _spawn(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[run_id] = asyncio.create_task(work, name=f"gapless-execution-{run_id}")
        task.add_done_callback(functools.partial(self._done, run_id))

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(run_id) is task:
            del self._tasks[run_id]

    def _come_back(self, known: RunRecord, digest: str, user_id: str) -> Run:
        if known.user_id != user_id or known.digest != digest:
            raise RunConflict(
                f"run {known.id} exists with another message, session or agent; choose a new run id", run_id=known.id
            )
        return Run(self, known)

    def _agent(self, agent: object) -> tuple[str, Agent]:
        if agent is None:
            if len(self.agents) != 1 and self.app_name not in self.agents:
                raise AgentNotFound(
                    f"say which agent: {', '.join(sorted(self.agents))}" if self.agents else "no agent is registered"
                )
            name = self.app_name if self.app_name in self.agents else next(iter(self.agents))
            return name, self.agents[name]
        if isinstance(agent, str):
            found = self.agents.get(agent)
            if found is None:
                raise AgentNotFound(f"no agent {agent!r}; there are: {', '.join(sorted(self.agents)) or 'none'}")
            return agent, found
        adapted = adapt(agent)
        return adapted.name, adapted

    def _admit(self, user_id: str) -> None:
        limits, active = self.limits, self.executions
        if len(active) >= limits.runs_active_max:
            raise LimitReached(f"this worker runs runs_active_max={limits.runs_active_max} runs", retry_after_s=1)
        per_user = limits.runs_active_per_user_max
        if per_user is not None:
            mine = sum(execution.record.user_id == user_id for execution in active.values())
            if mine >= per_user:
                raise LimitReached(f"you have runs_active_per_user_max={per_user} runs active", retry_after_s=1)

    def _earlier(self, sent: list[Message] | None, turns: list[Turn]) -> list[Message]:
        """The history before a run: what the client sent, or the newest of the session's turns."""
        if sent is not None:
            return sent
        messages = [message for turn in turns for message in _decode_messages(turn.messages)]
        return messages[-self.limits.history_messages_max :]

    async def _take_turn(self, record: RunRecord, *, interrupt: bool) -> None:
        """Wait until no earlier run of the session is active; with `interrupt`, cancel those."""
        while True:
            started_at = _now_ms()
            ahead = await patiently(self.store.start_run, record.id, started_at)
            if ahead is None:
                record.started_at, record.status = started_at, RunStatus.RUNNING
                return
            if interrupt:
                await patiently(self.cancel, ahead)
            await patiently(self.readers.wait, ahead)

    # -- attaching --------------------------------------------------------------------------------------------------

    async def attach(self, run_id: str) -> Run:
        """A handle on any run of the store, wherever it executes. Raises `RunNotFound`."""
        record = await self.get_run(run_id)
        return Run(self, record)

    async def get_run(self, run_id: str) -> RunRecord:
        """The run's record. Raises `RunNotFound`."""
        record = await self.find_run(run_id)
        if record is None:
            raise RunNotFound(f"no run {run_id}", run_id=run_id)
        return record

    async def find_run(self, run_id: str) -> RunRecord | None:
        """The run's record, or None where there is no such run."""
        await self.open()
        return await self.store.get_run(run_id)

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """Runs of the store, newest first."""
        await self.open()
        return await self.store.list_runs(user_id=user_id, session_id=session_id, status=status, limit=limit)

    async def current_run(self, session_id: str) -> RunRecord | None:
        """The session's run that executes or waits for an answer, or else the one that is next; where none is active,
        the newest; None where there is none. The newest run may only stand behind it in the queue."""
        for newest in await self.list_runs(session_id=session_id, limit=1):
            if newest.started_at is not None:  # its turn had come: all before it have ended
                return newest
            return (await self.active_runs([session_id])).get(session_id, newest)
        return None

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Find each session's run that executes or waits for an answer, or else the one that is next, in one question
        to the store. A session where nothing is active is not in the answer."""
        await self.open()
        return await self.store.active_runs(session_ids)

    async def cancel(self, run_id: str) -> RunRecord:
        """End a run as cancelled, wherever it executes; nothing happens to one that has ended. Raises `RunNotFound`."""
        record = await self.get_run(run_id)
        if not record.status.ended:
            await self._command(record, Command(kind="cancel"))
        return record

    async def answer(self, run_id: str, entries: list[ResumeEntry]) -> None:
        """Answer the interrupts of a waiting run, wherever it executes. All that it waits for have to be answered.

        Raises `RunNotFound`, `InputInvalid`, `InputTooLarge`."""
        record = await self.get_run(run_id)
        waits_for = "no answer"
        if record.status is RunStatus.WAITING:
            (event,) = await self.store.read(run_id, record.last_seq - 1, 1)
            missing = {interrupt.id for interrupt in interrupts_in(event)} - {entry.interrupt_id for entry in entries}
            waits_for = f"answers to {', '.join(sorted(missing))}" if missing else ""
        if waits_for:
            state = record.status.value + (f" ({record.error['message']})" if record.error else "")
            raise InputInvalid(f"run {run_id} is {state}, it waits for {waits_for}", run_id=run_id)
        self._check_size(record, entries)
        await self._command(record, Command(kind="input", resume=entries))

    async def send(self, run_id: str, request: LiveRequest, *, wait: bool = False) -> None:
        """Say something to a live run, wherever it executes. With `wait`, where its agent is too far behind, once it is
        not (which is known of a run that executes here).

        Raises `RunNotFound`, `InputInvalid` (it is not live, has ended, or nothing more was to be said),
        `InputTooLarge`, `LimitReached`."""
        if request.id is not None:
            _check_id(request.id, "message")
        if len(text_of(request.content)) > self.limits.message_chars_max:
            what = f"the message is over message_chars_max={self.limits.message_chars_max} characters"
            raise InputTooLarge(what, run_id=run_id)
        while (execution := self.executions.get(run_id)) is not None and not execution.fenced:
            try:
                execution.hear(request)
                return
            except LimitReached:
                if not wait:
                    raise
            await asyncio.sleep(SPEAK_AGAIN_S)
        record = await self.get_run(run_id)
        if request.close and is_live(record.config) and record.status.ended:
            return  # nothing more is said to it
        if not is_live(record.config) or record.status.ended:
            why = "has ended" if record.status.ended else "is not live"
            raise InputInvalid(f"run {run_id} {why}: nothing can be said to it", run_id=run_id)
        await self._command(record, Command(kind="live", said=request))

    def _check_size(self, record: RunRecord, entries: list[ResumeEntry]) -> None:
        """Refuse answers that could not be recorded: they would end the run. Raises `InputTooLarge`."""
        answers = RunAgentInput(thread_id=record.session_id, run_id=record.id, messages=[], resume=entries)
        event = RunStartedEvent(thread_id=record.session_id, run_id=record.id, timestamp=_now_ms(), input=answers)
        try:
            _, encoded = sound(event)
        except AgentInvalid as error:
            raise InputTooLarge(f"run {record.id} cannot record the answer: {error}", run_id=record.id) from None
        bytes_max = self.limits.event_bytes_max
        if len(encoded) > bytes_max:
            raise InputTooLarge(f"run {record.id}: the answer is over event_bytes_max={bytes_max}", run_id=record.id)

    async def _command(self, record: RunRecord, command: Command) -> None:
        encoded = msgspec.json.encode(command)
        if record.owner == self.worker_id and record.id in self.executions:
            self._on_command(record.id, encoded)
        else:  # also when it is still executed here: the store knows whose it is
            await self.store.send(record.id, encoded)

    def _on_left(self, run_id: str) -> None:
        self._cancel_unless_read(self.executions[run_id])

    def _cancel_unless_read(self, execution: Execution) -> None:
        if ends_unread(execution.config):
            self.journals.loop.call_later(LEFT_S, self._cancel_unread, execution)

    def _cancel_unread(self, execution: Execution) -> None:
        if not self.readers.counted(execution.record.id) and not execution.followed_elsewhere:
            execution.stop(RunCancelled("cancelled because its last follower left", run_id=execution.record.id))

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        user_id: str = _ANONYMOUS,
        state: dict[str, Any] | None = None,
        agent: str | None = None,
    ) -> SessionRecord:
        """A new session, or the one that has the id already. Raises `SessionNotFound` when that is another user's."""
        await self.open()
        now = _now_ms()
        if session_id is not None:
            _check_id(session_id, "session")
        session_id = session_id or new_id()
        with _lease_wanted():
            session = await self.store.create_session(
                SessionRecord(
                    id=session_id,
                    user_id=user_id,
                    agent=agent or self.app_name,
                    created_at=now,
                    updated_at=now,
                    state=state or {},
                )
            )
        if session.user_id != user_id:
            raise session_taken(session_id)
        return session

    async def get_session(self, session_id: str) -> SessionRecord:
        """The session's record. Raises `SessionNotFound`."""
        session = await self.find_session(session_id)
        if session is None:
            raise SessionNotFound(f"no session {session_id}")
        return session

    async def find_session(self, session_id: str) -> SessionRecord | None:
        """The session's record, or None where there is no such session."""
        await self.open()
        return await self.store.get_session(session_id)

    async def turns(self, session_id: str) -> list[Turn]:
        """What each ended run of the session has added to it, oldest first; empty where there is no such session."""
        await self.open()
        return await self.store.turns(session_id)

    async def update_state(self, session_id: str, changes: dict[str, Any]) -> SessionRecord:
        """Set these keys of the session's state. Raises `SessionNotFound`; `SessionBusy` while it has an active run."""
        await self.open()
        session = await self.store.update_state(session_id, changes, _now_ms())
        if session is None:
            raise SessionNotFound(f"no session {session_id}")
        return session

    async def list_sessions(self, *, user_id: str | None = None, limit: int = 100) -> list[SessionRecord]:
        """Latest used first."""
        await self.open()
        return await self.store.list_sessions(user_id=user_id, limit=limit)

    async def delete_session(self, session_id: str) -> None:
        """Drop the session with its runs. Raises `SessionNotFound`, `SessionBusy`."""
        await self.open()
        if not await self.store.delete_session(session_id):
            raise SessionNotFound(f"no session {session_id}")

    async def messages(self, session_id: str, *, before: str | None = None) -> list[Message]:
        """The messages of the session's ended runs, oldest first. With `before`, those that the message of this id is
        asked after: not what it, or another that was asked again, has replaced. Raises `SessionNotFound`."""
        await self.get_session(session_id)
        turns = await self.store.turns(session_id)
        if before is not None:
            turns = branch(turns, before)
        return [message for turn in turns for message in _decode_messages(turn.messages)]

    # -- asking and reading at once ---------------------------------------------------------------------------------

    async def run_async(
        self,
        query: object = None,
        agent: object = None,
        session: object = None,
        *,
        run_config: RunConfig | None = None,
        new_message: object = None,
        session_id: str | None = None,
        user_id: str = _ANONYMOUS,
        run_id: str | None = None,
        deps: Any = None,
    ) -> AsyncIterator[Event]:
        """Start a run and yield its events to the end. Leaving early leaves the run going, unless its `on_disconnect`
        is "cancel".

        The message is `query` or, in ADK's spelling, `new_message`; the session is given by id or as an object with
        one. Raises what `start` raises and, after the last event of a run that failed, its `RunFailed`.
        """
        message = query if query is not None else new_message
        run = await self.start(
            message,
            agent=agent,
            session_id=_session_id(session, session_id),
            user_id=user_id,
            run_id=run_id,
            config=run_config,
            deps=deps,
        )
        async for event in run.events():
            yield event
        await run.raise_if_failed()

    async def run_live(
        self,
        live_request_queue: LiveRequestQueue,
        agent: object = None,
        session: object = None,
        *,
        run_config: RunConfig | None = None,
        session_id: str | None = None,
        user_id: str = _ANONYMOUS,
        run_id: str | None = None,
        deps: Any = None,
    ) -> AsyncIterator[Event]:
        """Start a live run and yield its events to the end, which comes when the agent has answered what was said
        before `live_request_queue.close()`. Leaving early closes the queue: nobody would speak to the run any more.

        Raises what `start` raises and, after the last event of a run that failed, its `RunFailed`. What is said and
        cannot be taken (`InputInvalid`, `InputTooLarge`) ends the run, and is raised then.
        """
        if not isinstance(live_request_queue, LiveRequestQueue):
            given = type(live_request_queue)
            raise UsageError(
                f"live_request_queue= is a gapless.LiveRequestQueue, not {given.__module__}'s {given.__name__}"
            )
        config = msgspec.structs.replace(run_config or self.config, streaming_mode=StreamingMode.BIDI)
        session_id = _session_id(session, session_id)
        run = await self.start(
            "", agent=agent, session_id=session_id, user_id=user_id, run_id=run_id, config=config, deps=deps
        )
        speaking = asyncio.create_task(self._speak(run, live_request_queue), name=f"gapless-live-{run.id}")
        try:
            async for event in run.events():
                yield event
        finally:
            speaking.cancel()
            with contextlib.suppress(GaplessError):
                await run.send(LiveRequest(close=True))
        await run.raise_if_failed()
        if speaking.done() and not speaking.cancelled():
            speaking.result()

    async def _speak(self, run: Run, queue: LiveRequestQueue) -> None:
        """What is said there is said to the run, until either has ended."""
        try:
            async for request in queue:
                await self.send(run.id, request, wait=True)
        except GaplessError:
            if not (await run.record()).status.ended:
                raise
        finally:
            with contextlib.suppress(GaplessError):
                await run.send(LiveRequest(close=True))

    def run(
        self, query: object = None, agent: object = None, session: object = None, **options: Unpack[AskOptions]
    ) -> Iterator[Event]:
        """`run_async` for code without an event loop: a generator that blocks. Takes the same arguments.

        The runner then lives on a thread of its own until the process ends. Raises `UsageError` inside an event loop.
        """
        from gapless.runs.portal import iterate

        return iterate(self, lambda: self.run_async(query, agent, session, **options))

    @overload
    def run_stream(
        self, query: object, *, output_type: type[_OutputT], **options: Unpack[StartOptions]
    ) -> RunStream[_OutputT]: ...

    @overload
    def run_stream(
        self, query: object, *, output_type: None = None, **options: Unpack[StartOptions]
    ) -> RunStream[str]: ...

    def run_stream(self, query: object, *, output_type: Any = None, **options: Unpack[StartOptions]) -> RunStream[Any]:
        """`async with runner.run_stream(q) as stream`: text or typed output as it grows. Takes what `start` takes.

        Leaving the block before the end cancels the run."""
        return RunStream(lambda: self.start(query, output_type=output_type, **options), output_type or str)

    # -- keeping the lease ------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Renew this worker's lease and close the runs of workers that lost theirs. Done by itself several times a
        lease. Raises `StoreUnavailable`."""
        try:
            await self.store.renew()
            await self._look_for_orphans()
        except WorkerFenced:
            await self._register_again()

    async def _look_for_orphans(self) -> None:
        for orphan in await self.store.take_over(self._lease_s):
            self._spawn(orphan.id, self._take_over(orphan, self._tasks.get(orphan.id)))

    async def _keep(self) -> None:
        """Renew several times a lease, look at the others more often, so that a lost worker's runs wait for little more
        than the lease, and now and then drop the events that are past their retention."""
        expire_at = time.monotonic() + EXPIRE_EVERY_S / 10
        pause_s = min(self._lease_s / RENEWALS_PER_LEASE, WATCH_S)
        renew_at = 0.0
        while True:
            try:
                if time.monotonic() >= renew_at:
                    await self.sweep()
                    renew_at = time.monotonic() + self._lease_s / RENEWALS_PER_LEASE
                    self.journals.failing = False
                else:
                    with contextlib.suppress(WorkerFenced):  # the next renewal sees to it
                        await self._look_for_orphans()
                if time.monotonic() > expire_at:
                    expire_at = time.monotonic() + EXPIRE_EVERY_S
                    await self._expire()
            except StoreUnavailable as error:
                if not self.journals.failing:
                    log.warning("worker %s: the store is unavailable: %s", self.worker_id, error)
                self.journals.failing = True
            except Exception as error:  # a bug; the lease of all runs must not end with it
                log.error("worker %s: %s while its lease was renewed", self.worker_id, type(error).__name__)
                log.debug("worker %s", self.worker_id, exc_info=error)
            await asyncio.sleep(pause_s)

    async def _expire(self) -> None:
        kept_s, kept_bytes_max = self._retention_s, self.limits.kept_bytes_max
        if kept_s is not None or kept_bytes_max is not None:
            await self.store.expire(0 if kept_s is None else _now_ms() - int(kept_s * 1000), kept_bytes_max)

    async def _take_over(self, record: RunRecord, before: asyncio.Task[None] | None) -> None:
        """End the run of a worker that is gone, or run it again where that was asked for. What it had shown stays,
        marked as interrupted; after a restart it is void.

        The worker that is gone may have been this one, under an earlier id: `before` is what still ends of it here."""
        worker_id = self.worker_id
        if before is not None:
            self._on_refused(record.id)
            await asyncio.wait({before})
        journal = self.journals.create(record.id, last=record.last_seq)
        try:
            recorder = await self._record_so_far(record, journal)
            if self.worker_id != worker_id:
                return  # the lease was lost again
            self.metrics.runs_taken_over += 1
            agent = self.agents.get(record.agent)
            wanted = record.config is not None and record.config.on_worker_lost == "restart"
            if wanted and agent is not None and recorder.fold.restarts < RESTARTS_MAX and not self._draining:
                log.warning("run %s: restarted, its worker was lost", record.id)
                if record.status is RunStatus.WAITING:
                    journal.set_status(RunStatus.RUNNING)
                await self._execute(self._begin(record, agent, journal, recorder, record.request or RunRequest()))
                return
            self._early.pop(record.id, None)
            failure = WorkerLost("the worker that ran it was lost; ask again", run_id=record.id)
            if record.last_seq == 0:
                recorder.start(_now_ms())
            recorder.close_open()
            terminal = RunErrorEvent(message=failure.message, code=failure.code, timestamp=_now_ms())
            journal.close(encode_event(terminal), end_of(record, recorder.fold, failure))
            await journal.settled()
            self.metrics.run_ended(record.agent, failure.code)
            log.warning("run %s: closed, its worker was lost", record.id)
        finally:
            await self.journals.disown(journal)

    async def _record_so_far(self, record: RunRecord, journal: Journal) -> Recorder:
        """A recorder that has seen what others recorded."""
        recorder = Recorder(journal, record.id, record.session_id, self.limits)
        after = 0
        while after < record.last_seq:
            events = []
            with contextlib.suppress(CursorExpired):
                events = await patiently(self.store.read, record.id, after, PAGE_EVENTS, patience_s=math.inf)
            if not events:
                break  # the store has lost what its record counts
            for event in events:
                with contextlib.suppress(msgspec.DecodeError):  # of another version; the run must still be ended
                    recorder.resume(decode_event(event))
            after += len(events)
            await asyncio.sleep(0)
        return recorder

    async def _register_again(self) -> None:
        """Another worker has taken this one's runs (it had been stopped for too long): start anew under a new id."""
        self.metrics.leases_lost += 1
        log.warning("worker %s lost its lease; its runs were closed by another", self.worker_id)
        self._on_fenced()
        await self.journals.register_again(new_id())

    def _on_fenced(self) -> None:
        for execution in self.executions.values():
            execution.fence()

    def _on_refused(self, run_id: str) -> None:
        execution = self.executions.get(run_id)
        if execution is not None:
            execution.fence()

    def _on_command(self, run_id: str, command: bytes) -> None:
        execution = self.executions.get(run_id)
        if execution is None or execution.fenced:
            early = self._early.setdefault(run_id, [])
            early.append(command)
            del early[:-EARLY_COMMANDS_MAX]
            if len(self._early) > EARLY_COMMANDS_MAX:
                del self._early[next(iter(self._early))]
            return
        decoded = decode_command(command)
        if decoded.kind == "cancel":
            execution.stop(RunCancelled("cancelled", run_id=run_id))
        elif decoded.kind == "followers":
            execution.count_followers(decoded.worker_id, decoded.number, decoded.followers)
            self._cancel_unless_read(execution)
        elif decoded.kind == "live" and decoded.said is not None:
            try:
                execution.hear(decoded.said, elsewhere=True)
            except GaplessError as error:
                log.warning("run %s: what was said at another worker is lost: %s", run_id, error.code)
        elif decoded.kind == "input" and not execution.answer(decoded.resume):
            log.warning("run %s: an answer came that it does not wait for", run_id)


@contextlib.contextmanager
def _lease_wanted(run_id: str | None = None) -> Iterator[None]:
    """Says what is meant for clients when this worker has lost its lease: it will have one again in a moment."""
    try:
        yield
    except WorkerFenced:
        raise StoreUnavailable(
            "this worker lost its lease and registers again; try again", run_id=run_id, retry_after_s=1
        ) from None


def new_id() -> str:
    """A fresh id: 20 characters, roughly ordered by time."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)[:9]}"


def _session_id(session: object, session_id: str | None) -> str | None:
    """The session that a caller names by its id or as an object with one."""
    return session_id or (session if isinstance(session, str) else getattr(session, "id", None))


def _session_for(run_id: str, user_id: str) -> str:
    """The session of a run that was given none: the same on every worker that is asked for the run at the same time."""
    return _digest("session", user_id, run_id)


def _check_id(value: str, kind: str) -> None:
    if not _ID.fullmatch(value):
        raise InputInvalid(f"{kind} id: 1 to {ID_CHARS_MAX} of the characters A-Z a-z 0-9 . _ ~ @ : + = -; not . or ..")


def _changes(own: RunConfig, config: RunConfig) -> dict[str, Any]:
    """What was asked for beside the runner's own config. That may be another when the same request comes again, such as
    after a deployment."""
    return {name: value for name, value in msgspec.structs.asdict(config).items() if value != getattr(own, name)}


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
