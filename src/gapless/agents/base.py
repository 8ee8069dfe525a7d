"""The adapter seam: what an agent is to the runner.

To add a framework, write one module with a subclass of `Agent`, and a line in the table of `gapless.agents`. `run`
yields what the agent produces as it produces it; the runner does the rest: it opens and closes messages, writes the
journal, ends the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from gapless.agents.awaited import awaited
from gapless.agents.places import class_and_place, place_of
from gapless.config import RunConfig
from gapless.errors import AgentInvalid, UsageError
from gapless.events import ContentPart, Context, Event, Interrupt, Message, ResumeEntry, TokenUsage, Tool, text_of
from gapless.live import LiveRequestQueue

__all__ = [
    "SEE_LOG",
    "Agent",
    "AgentItem",
    "Deltas",
    "RunContext",
    "as_current",
    "call_key",
    "call_step",
    "class_and_place",
    "current_run",
    "log_raised",
    "place_of",
]

_T = TypeVar("_T")

SEE_LOG = "; see the server's log"
"""Ends the message of an error whose cause may hold what people wrote: clients are not told it."""

AgentItem: TypeAlias = str | Event
"""What an agent yields: a piece of the answer's text, or any event."""


class RunContext:
    """Shows one run to its agent.

    Read: the run `run_id` in session `session_id`, asked by `user_id` of `agent_name`; `content`, the history
    (`messages`), its `config`; what is said to a live run (`live`). From the caller: `deps`, `output_type`. From the
    client: its own `tools`, `context` and `forwarded_props`. Write: `native` (the turn in the framework's own form,
    kept for the next turn's `native_history`, or once it was replaced its
    `native_left`), `result` (the typed output, sent with RUN_FINISHED), `state`,
    `add_usage`. Ask a person with `interrupt`.

    So that another worker can go on: `checkpoint` is what the agent gave to `save` there, `emit` records what cannot be
    yielded, `new_id` counts on from `ids_after`, `leaving` says that the run is left at the next save, and `left` that
    another goes on. `unkept` is called with the name of what the agent calls (`save`, `step`) where that keeps nothing.

    What is to be awaited can be handed to the run's event loop from a thread (`asyncio.run_coroutine_threadsafe`). Sync
    code that only calls it fails its run with `AgentInvalid`: nothing comes of that.
    """

    __slots__ = (
        "_cancelled",
        "_emit",
        "_forgotten",
        "_ids",
        "_interrupt",
        "_leaving",
        "_left",
        "_live",
        "_messages",
        "_native_history",
        "_native_left",
        "_save",
        "_steps",
        "_unkept",
        "agent_name",
        "checkpoint",
        "config",
        "content",
        "context",
        "deps",
        "forwarded_props",
        "native",
        "output_type",
        "result",
        "run_id",
        "session_id",
        "state",
        "tools",
        "usage",
        "user_id",
    )

    def __init__(
        self,
        *,
        run_id: str,
        session_id: str,
        user_id: str,
        agent_name: str,
        content: str | list[ContentPart],
        messages: list[Message] | Callable[[], list[Message]],
        config: RunConfig,
        interrupt: Callable[[list[Interrupt]], Awaitable[list[ResumeEntry]]],
        native_history: Sequence[bytes] | Callable[[], Sequence[bytes]] = (),
        native_left: Callable[[], Sequence[bytes]] = tuple,
        deps: Any = None,
        output_type: Any = None,
        state: dict[str, Any] | None = None,
        tools: list[Tool] | None = None,
        context: list[Context] | None = None,
        forwarded_props: Any = None,
        live: LiveRequestQueue | None = None,
        checkpoint: bytes | None = None,
        save: Callable[[Callable[[], bytes], Collection[str], bool], Awaitable[None]] | None = None,
        emit: Callable[[AgentItem], Coroutine[Any, Any, None]] | None = None,
        ids_after: int = 0,
        left: Callable[[], bool] | None = None,
        leaving: Callable[[], bool] | None = None,
        unkept: Callable[[str], None] | None = None,
    ) -> None:
        self.run_id = run_id
        self.session_id = session_id
        self.user_id = user_id
        self.agent_name = agent_name
        self.content = content
        """The new user message: text, or parts when it has media."""
        self._messages = messages
        self.config = config
        self._native_history = native_history
        self._native_left = native_left
        self.deps = deps
        self.output_type = output_type
        """The type asked for by `run_stream(output_type=…)`, or None."""
        self.state: dict[str, Any] = state or {}
        """The session's state; saved when the run ends."""
        self.tools = tools or []
        """Tools that the client offers and executes itself."""
        self.context = context or []
        self.forwarded_props = forwarded_props
        self.native: bytes | None = None
        """Set by an adapter, and kept up to date while it streams, so that a run cut short leaves a usable turn."""
        self.result: Any = None
        """The final output, anything that JSON can carry."""
        self.usage: list[TokenUsage] = []
        self.checkpoint = checkpoint
        """What the agent saved last of this run, on a worker that is gone: it goes on from there. None in a new run."""
        self._interrupt = interrupt
        self._live = live
        self._save = save
        self._left = left
        self._leaving = leaving
        self._emit = emit
        self._forgotten = ""
        """What was called from a thread, and never awaited."""
        self._unkept = unkept
        self._ids = ids_after
        self._steps: Callable[..., Awaitable[Any]] | None = None
        self._cancelled: Callable[[BaseException], None] | None = None
        """Called with what has cancelled one of the run's tasks that nobody had cancelled, from its inside."""

    @property
    def message(self) -> str:
        """Returns the new user message's text."""
        return text_of(self.content)

    @property
    def messages(self) -> list[Message]:
        """Returns the session's history with the new user message last, oldest first."""
        if not isinstance(self._messages, list):  # a long history is decoded for those who read it
            self._messages = self._messages()
        return self._messages

    @property
    def live(self) -> LiveRequestQueue:
        """Yields what people say to this live run after its message: `async for request in ctx.live`. Raises
        `UsageError` in a run that is not live (`StreamingMode.BIDI`).
        """
        if self._live is None:
            how = 'start it with `runner.run_live()`, at /live or with "streaming_mode": "bidi"'
            raise UsageError(f"run {self.run_id} is not live, and its agent is: {how}", run_id=self.run_id)
        return self._live

    @property
    def native_history(self) -> Sequence[bytes]:
        """Returns `native` of each earlier turn of this session that has one, oldest first."""
        if callable(self._native_history):
            self._native_history = self._native_history()
        return self._native_history

    @property
    def native_left(self) -> Sequence[bytes]:
        """Returns `native` of the turns that were asked again or edited: the conversation has gone on without them."""
        return self._native_left()

    def add_usage(self, usage: TokenUsage) -> None:
        """Count the tokens of one model call, `usage`; the sum per model goes out with the run's last event."""
        self.usage.append(usage)

    @property
    def continues(self) -> bool:
        """Returns whether this run can go on at another worker from what is saved; where it can't, `save` keeps
        nothing.
        """
        return self._save is not None

    def save(self, data: bytes, *, half: Collection[str] = (), leave: bool = True) -> Coroutine[Any, Any, None]:
        """Make this the point from which the run can be gone on with: all that was yielded and emitted before is kept,
        and another worker calls the agent with `data` as `ctx.checkpoint`. Returns once that is accepted, so that what
        comes next begins after it is safe; on a worker that leaves the run here it does not return.

        `half` names the messages and tool calls that are said in part, by what would be begun anew: there they are
        taken back. With `leave=False` no worker leaves the run here: something is under way, or about to be, that would
        be done again.

        Raises `AgentInvalid` for what is not bytes, and in a function that replays (`gapless.replays`): it keeps its
        steps by itself; `RunFenced` while the agent is stopped: what it does then is not where others go on. Of an
        agent whose runs can't go on nothing is kept, and the log says so once.
        """
        return self._to_await("save", self._saved(data, half, leave))

    async def _saved(self, data: bytes, half: Collection[str], leave: bool) -> None:
        if self._save is None and self._unkept is not None:
            self._unkept("save")
        if not isinstance(data, bytes | bytearray | memoryview):
            what = f"ctx.save takes bytes, not {type(data).__name__}: encode it, as by json.dumps(…).encode()"
            raise AgentInvalid(f"run {self.run_id}: {what}", run_id=self.run_id)
        if self._save is not None:
            copied = bytes(data)
            await self._save(lambda: copied, half, leave)

    @property
    def left(self) -> bool:
        """Returns whether the run is another worker's from now on: an agent that is stopped then leaves what it shares
        with other workers as it is.
        """
        return self._left is not None and self._left()

    @property
    def leaving(self) -> bool:
        """Returns whether this worker stops and leaves the run at its next save: what can end before it begins more is
        to end.
        """
        return self._leaving is not None and self._leaving()

    @property
    def emits(self) -> bool:
        """Returns whether `emit` records; in a context that was made outside of a run it raises."""
        return self._emit is not None

    def emit(self, item: AgentItem) -> Coroutine[Any, Any, None]:
        """Record `item` now, as if it were yielded: for what comes where the agent can't yield, such as in a callback.
        Raises `UsageError` outside of a run.
        """
        if self._emit is None:
            raise UsageError(f"run {self.run_id} does not execute here: nothing can be emitted", run_id=self.run_id)
        return self._to_await("emit", self._emit(item))

    def new_id(self, kind: str) -> str:
        """Make an id for a message, with `kind` in it, that no worker of this run has given to anything else."""
        self._ids += 1
        return f"{self.run_id}-{kind}-{self._ids}"

    def step(
        self, name: str, function: Callable[..., Any], *args: Any, type: Any = Any, repeatable: bool = True
    ) -> Coroutine[Any, Any, Any]:
        """Do what is costly or must not be done twice, once: return what `function` returns for `args`. In an agent
        that replays (`gapless.replays`), what it returned is remembered as JSON under `name`, and returned as `type`
        when the run is gone on with, and also the first time, wherever the run is. It is of JSON's own values,
        dataclasses, msgspec structs, Pydantic models, and lists and dicts of them; without `type` all of these come
        back as lists and dicts. A sync function runs in a thread.

        With `repeatable=False` it is never begun again: what it raised is raised again, and where the worker was lost
        while it ran, raises `OutcomeUnknown`. Raises `AgentInvalid` where what it returned is nothing of these, or no
        `type`. Without a replaying agent it is only called; the log says so once, unless the agent saves.
        """
        return self._to_await("step", self._stepped(name, function, args, type, repeatable))

    async def _stepped(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], type: Any, repeatable: bool
    ) -> Any:
        if self._steps is None:
            if self._unkept is not None:
                self._unkept("step")
            return await call_step(function, *args)
        return await self._steps(name, function, args, type, repeatable)

    def call_key(self, call_id: str) -> str:
        """Return the idempotency key of the tool call `call_id`: the same on every worker of this run, and no other."""
        return f"{self.run_id}:{call_id}"

    def interrupt(self, interrupts: list[Interrupt]) -> Coroutine[Any, Any, list[ResumeEntry]]:
        """Ask a person and wait for the answers to `interrupts`: the run is `waiting` until `POST /runs/{id}/input` or
        `run.answer()`. An agent that leaves off (`asyncio.timeout`) goes on unanswered. Each has an id of its own, and
        what is asked at once is one list. Raises `AgentInvalid` for anything else.
        """
        return self._to_await("interrupt", self._interrupted(interrupts))

    async def _interrupted(self, interrupts: list[Interrupt]) -> list[ResumeEntry]:
        return await self._interrupt(interrupts)

    def _to_await(self, what: str, work: Coroutine[Any, Any, _T]) -> Coroutine[Any, Any, _T]:
        def forgotten() -> None:
            self._forgotten = what

        return awaited(work, forgotten)


_current: contextvars.ContextVar[RunContext | None] = contextvars.ContextVar("gapless_run", default=None)


class _Current:
    __slots__ = ("_ctx", "_token")

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx

    def __enter__(self) -> None:
        self._token = _current.set(self._ctx)

    def __exit__(self, *error: object) -> None:
        _current.reset(self._token)


def as_current(ctx: RunContext) -> contextlib.AbstractContextManager[None]:
    """Make `ctx` the run of what is called inside: `current_run` finds it."""
    return _Current(ctx)


def current_run() -> RunContext | None:
    """Return the run that this code is called in, for tools, which see their framework's context and not Gapless's;
    None outside of a run.
    """
    return _current.get()


def run_in(context: contextvars.Context) -> RunContext | None:
    """Return the run that what is called in `context` belongs to; None for none."""
    return context.get(_current)


def call_key(call_id: str) -> str:
    """Return the idempotency key of the tool call `call_id` in the run that this code is called in: the same when the
    call is made again at another worker. Raises `UsageError` outside of a run.
    """
    run = current_run()
    if run is None:
        raise UsageError("call_key is for code that a run calls, and there is none here")
    return run.call_key(call_id)


async def call_step(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` with `args` and return what it returns, a sync one in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    found = await asyncio.to_thread(function, *args)
    return await found if inspect.isawaitable(found) else found


class Deltas(NamedTuple):
    """Is how the deltas of a framework's model have come in a run: `at_model`, where the model gave them, or through
    the framework's graph of events, which costs more. `watched_by` says what there wants to see them."""

    at_model: bool
    watched_by: str = ""


class Agent:
    """Is what the runner runs: `name` and `run`, and the duties below where the agent has more to do than to answer."""

    name: str
    live: bool = False
    """Whether `run` takes what is said to a live run (`ctx.live`)."""
    reads_messages: bool = True
    """Whether `run` is expected to read `ctx.messages`: a long history is then made ready beforehand, in a thread."""
    output_type: Any = None
    """The type of its output where that is not text, as `runner.run_stream` validates it."""
    continues: Literal["from_checkpoint", "anew", "no"] = "no"
    """What another worker can do with its runs: go on from what `run` saved last (`ctx.save`), begin anew without harm,
    or nothing."""
    framework: str = "gapless"
    """Whose checkpoints these are, with the version: what another version can't read is told from what is damaged."""

    deltas: Deltas | None = None
    """How its model's deltas came in the newest run that has ended; None where there is one way only."""

    def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        """Produce the answer to the run `ctx`. Cancelling the iteration must stop the model call. Raises whatever the
        agent raises.
        """
        raise NotImplementedError

    async def load(self) -> None:
        """Make ready, once before the first run, what would hold all runs up. Raises what keeps the agent from being
        so: who starts a run is told, and the next start tries again.
        """

    async def aclose(self) -> None:
        """Release what the agent holds. A later run opens it again."""

    def use_session_service(self, service: object) -> None:
        """Keep the sessions in `service`, the framework's own. Raises `UsageError` where the framework has none."""
        raise UsageError("session_service= is for ADK agents; Gapless keeps the sessions of every other kind")

    async def session_state(self, app_name: str, user_id: str, session_id: str) -> dict[str, Any] | None:
        """Return the state that the framework's own session service has of session `session_id` of `user_id` in
        `app_name`; None where it has none.
        """
        return None

    async def session_events(self, app_name: str, user_id: str, session_id: str) -> list[bytes] | None:
        """Return the events that the framework's own session service has of session `session_id` of `user_id` in
        `app_name`, as JSON; None where it has none.
        """
        return None

    def artifacts(self, app_name: str) -> Any:
        """Return what keeps the artifacts of the sessions of `app_name`, with the methods of `ADKArtifacts`; None where
        the agent keeps none.
        """
        return None

    def structure(self, app_name: str) -> Any:
        """Return what shows the agents that it is made of as the app `app_name`, with the methods of `ADKStructure`;
        None where the framework's page has nothing to draw.
        """
        return None

    async def update_state(self, app_name: str, user_id: str, session_id: str, changes: dict[str, Any]) -> None:
        """Tell the framework's own session service of `changes` to the state of session `session_id` of `user_id` in
        `app_name`.
        """

    async def remember(self, app_name: str, session: bytes) -> bool:
        """Give a `session` with its events, as the framework's own JSON, to the memory of the agent registered as
        `app_name`; False where it has none."""
        return False

    async def delete_session(self, app_name: str, user_id: str, session_id: str) -> None:
        """Drop what the framework itself keeps of session `session_id` of `user_id` in `app_name`: the session is
        deleted, and its id may be another user's next.
        """


def log_raised(log: logging.Logger, run_id: str, who: str, error: BaseException) -> None:
    """Log that `who` raised `error` in run `run_id`, by its class and place, to `log`; its text, which may hold what
    people wrote, only at `debug`.
    """
    log.error("run %s: %s raised %s", run_id, who, class_and_place(error))
    log.debug("run %s", run_id, exc_info=error)
