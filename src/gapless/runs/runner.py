"""The runner: the door to runs. It starts, attaches to and cancels them, and keeps their sessions."""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any, Self

from gapless.agents import adapt
from gapless.agents.base import Agent
from gapless.config import ClientConfig, Limits, RunConfig
from gapless.errors import AgentNotFound, GaplessError, UsageError
from gapless.events import Context, Message, ResumeEntry, Tool
from gapless.given import check_given, check_number, one_of
from gapless.journals import open_store
from gapless.journals.contract import Store
from gapless.metrics import Metrics
from gapless.notify import NotifyConfig, Webhook, as_webhook
from gapless.producing import PRODUCER
from gapless.records import Listing, RunRecord, RunStatus, SessionRecord, Turn
from gapless.runs.asking import Asking
from gapless.runs.execution import Execution
from gapless.runs.home_loop import HomeLoop
from gapless.runs.inbox import Elsewhere
from gapless.runs.keeper import LEASE_S, RETENTION_S, Keeper
from gapless.runs.request import ANONYMOUS, Asked, request_given
from gapless.runs.run import Run
from gapless.runs.worker import DRAIN_S, Worker
from gapless.settings import CLIENT_SETTINGS

__all__ = ["Runner"]

_OPTIONS: tuple[tuple[str, type | UnionType, str], ...] = (
    ("agents", Mapping | None, "a dict of agents by their names"),
    ("app_name", str | None, "a name"),
    ("config", RunConfig | None, "a gapless.RunConfig"),
    ("notify", NotifyConfig | None, "a gapless.NotifyConfig"),
    ("client_config", ClientConfig | None, "a gapless.ClientConfig"),
    ("limits", Limits | None, "gapless.Limits"),
    ("lease_s", int | float, "a number of seconds"),
    ("retention_s", int | float | None, "a number of seconds, or None for ever"),
)
"""What the runner is told beside its agents and its store: name, kind, and that in words."""
LIMIT_MAX = 1_000_000
"""Records on one page of a list."""
LEASE_S_MAX, RETENTION_S_MAX = 24 * 3600.0, 1000 * 365 * 24 * 3600.0
_BOUNDS = {"lease_s": (0.001, LEASE_S_MAX), "retention_s": (0, RETENTION_S_MAX)}
"""The least and the most of those that are numbers."""

_ELSEWHERE: dict[str, Agent] = {PRODUCER: Elsewhere()}
"""The agent of runs that are executed elsewhere: no runner lists it among its own."""

log = logging.getLogger("gapless.runner")


def _check(*given: object) -> None:
    """Raises `UsageError` where one of `_OPTIONS` is given as another kind, and for a dict of no agents."""
    for value, (name, kind, wanted) in zip(given, _OPTIONS, strict=True):
        check_given(name, value, kind, wanted)
        if name in _BOUNDS:
            assert isinstance(value, int | float | None), "it was just looked at"
            check_number(name, value, *_BOUNDS[name])
    if given[0] == {}:
        raise UsageError("agents: there is none in it; give at least one, by its name")


def _check_limit(limit: int) -> None:
    check_given("limit", limit, int, "a whole number")
    check_number("limit", limit, 1, LIMIT_MAX)


class Runner(Asking):
    """Runs agents and journals what they say.

    The runner opens itself at its first use and belongs to the event loop of that moment, in any other it raises
    `UsageError`; `close` it, or use it as an async context manager: then it can be opened in another.

    Raises `AgentInvalid` or `ExtraMissing` for an agent that cannot be one, `AgentNotFound` for a name that leads to
    none, `UsageError` for anything else that does not fit.

    Args:
        agent: One agent, of any kind that `gapless.agents.adapt` takes.
        agents: Several of them, by the names that runs ask for.
        app_name: Name of `agent`, and of the agent of runs that name none; by default the first agent's.
        store: A store URL (`memory://`, `sqlite:///file.db`, `redis://…`), a `Path` for SQLite, or a `Store`.
        config: How runs go that are started without one.
        client_config: What clients of a server may choose of their runs' config.
        limits: What requests, runs and this process may take.
        lease_s: Seconds after which a worker that gives no sign of life has lost its runs to others.
        retention_s: Seconds for which the events of ended runs are kept; None for ever.
        session_service: ADK's own, for ADK agents, which then keep their sessions there.
        client_settings: What a request may set of `RunConfig.model_settings`, by name; `CLIENT_SETTINGS | {"model"}`
            adds to the default.
        notify: Who is told that runs wait or have ended, and what may be asked for.
    """

    def __init__(
        self,
        agent: object = None,
        *,
        agents: Mapping[str, object] | None = None,
        app_name: str | None = None,
        store: str | Path | Store = "memory://",
        config: RunConfig | None = None,
        client_config: ClientConfig | None = None,
        limits: Limits | None = None,
        lease_s: float = LEASE_S,
        retention_s: float | None = RETENTION_S,
        session_service: object = None,
        client_settings: Collection[str] = CLIENT_SETTINGS,
        notify: NotifyConfig | None = None,
    ) -> None:
        _check(agents, app_name, config, notify, client_config, limits, lease_s, retention_s)
        self.agents: dict[str, Agent] = {}
        if agent is not None:
            adapted = adapt(agent, app_name)
            self.agents[app_name or adapted.name] = adapted
        for name, one in (agents or {}).items():
            self.agents[name] = adapt(one, name)
        self.app_name = app_name or next(iter(self.agents), "gapless")
        self.config = config or RunConfig()
        self.client_settings = frozenset(client_settings)
        """What a request may set of `RunConfig.model_settings`."""
        self.client_config = client_config or ClientConfig()
        self.limits = limits or Limits()
        self.store = open_store(store)
        self.metrics = Metrics()
        self.notify = notify or NotifyConfig()
        self.worker = Worker(self.store, ChainMap(self.agents, _ELSEWHERE), self.limits, self.metrics, self.notify)
        self.journals = self.worker.journals
        self.readers = self.worker.readers
        self.executions = self.worker.executions
        self._sessions = self.worker.sessions
        self._keeper = Keeper(
            self.journals,
            lease_s=lease_s,
            retention_s=retention_s,
            kept_bytes_max=self.limits.kept_bytes_max,
            on_lost=self.worker.going_on.take_over,
            on_fenced=self.worker.on_fenced,
            find=self.worker.going_on.find,
        )
        self.worker.on_wanted = self._keeper.nudge
        self._home = HomeLoop()
        self._open = False
        if session_service is not None:
            for each in self.agents.values():
                each.use_session_service(session_service)

    @property
    def worker_id(self) -> str:
        """Returns the id under which this worker has its lease; another one after a loss. Empty until `open`."""
        return self.journals.worker_id

    @property
    def failing(self) -> bool:
        """True while the store takes nothing."""
        return self.journals.failing or self._keeper.waits

    @property
    def draining(self) -> bool:
        """True while no new runs are taken."""
        return self.worker.draining

    @property
    def others(self) -> int:
        """Returns how many other workers on the same store were alive when this one last looked."""
        return self.store.others

    async def look_for_others(self, wait_s: float) -> int:
        """Look how many other workers are alive on the store; as it last said where it does not say in `wait_s`."""
        await self._keeper.look(wait_s)
        return self.others

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the runner's event loop, from any thread."""
        self.journals.loop.call_soon_threadsafe(callback)

    # -- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Open the store and begin renewing this worker's lease. Idempotent; every method calls it.

        Raises `StoreUnavailable`, `StoreCorrupt`; `UsageError` in another event loop than that in which it is open."""
        opening = self._home.enter(self._open)
        if self._open:
            return self
        async with opening:
            if not self._open:
                await self._keeper.open()
                if self.agents:  # else it only looks at others' runs, and has none of what their notices need
                    self.worker.deliveries.open()
                self._open, self.worker.draining = True, False
        return self

    async def load(self) -> None:
        """Let the agents make ready what would hold all runs up, which else the first run of each does. One that cannot
        says why in the log, and tries again when a run is started.
        """
        for name, agent in self.agents.items():
            try:
                await self.worker.loading.load(agent)
            except Exception as error:
                why = error if isinstance(error, GaplessError) else type(error).__name__
                log.warning("agent %s is not ready: %s", name, why)
                log.debug("agent %s", name, exc_info=error)

    def refuse_new(self) -> None:
        """Take no new runs; those that are active go on."""
        self.worker.draining = True

    async def drain(self, grace_s: float = DRAIN_S) -> None:
        """Take no new runs, let the active ones finish for `grace_s` seconds, close the rest as `shutting_down`.

        Those that another worker can go on with are left to it. Any other that waits for a person would not finish in
        that time: it is closed at once. To a live run nothing more is said."""
        self._home.enter(self._open)
        await self.worker.drain(grace_s)

    async def close(self, grace_s: float = 0.0) -> None:
        """Drain for `grace_s` seconds, then release everything. Idempotent."""
        if not self._open:
            return
        await self.drain(grace_s)
        self._open = False
        await self._keeper.close()
        await self.worker.close()
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
        user_id: str = ANONYMOUS,
        config: RunConfig | None = None,
        deps: Any = None,
        output_type: Any = None,
        messages: list[Message] | None = None,
        state: dict[str, Any] | None = None,
        tools: list[Tool] | None = None,
        context: list[Context] | None = None,
        forwarded_props: Any = None,
        fingerprint: object = None,
        notify: Webhook | dict[str, Any] | str | None = None,
    ) -> Run:
        """Start a run, or come back to the one that has `run_id` already. It goes on whether or not anyone follows it.

        Raises `RunConflict` (the id belongs to another request), `SessionBusy`, `SessionNotFound` (of another user),
        `AgentNotFound`, `InputInvalid`, `InputTooLarge`, `LimitReached`, `ShuttingDown`, `StoreUnavailable`,
        `UsageError` (`deps` for a run that may be restarted elsewhere), and what keeps the agent from being ready.

        Args:
            message: Text, a list of AG-UI content parts, a `UserMessage`, or an ADK/Gemini content object. One with the
                id of a message that the session has already is asked in its place, without what followed that.
            agent: Name of a registered agent, or an agent; `PRODUCER` for `produce`; by default the one of `app_name`.
            session_id: The session to go on with or to begin; None for one of the run's own.
            run_id: Id of the run, up to 96 characters; the same request under it again is the same run. None for a new.
            user_id: Whose the run and its session are.
            config: How the run goes; by default the runner's own.
            deps: What the agent's tools depend on, in this process.
            output_type: Type of the result that the agent is to make.
            messages: History in place of the session's, of clients that keep their own; without `message`. Like `tools`
                and `context` it may be of dicts, as AG-UI writes them.
            state: State for the agent in place of the session's.
            tools: Tools that the client offers and executes itself.
            context: What an AG-UI client tells the agent beside the message.
            forwarded_props: What an AG-UI client passes on, untouched: JSON values.
            fingerprint: JSON values by which this request is told from another under the same id, where `messages` are
                made of more than the request, such as of a session that grows.
            notify: Who is told when the run waits for a person and when it has ended: an address, or a `Webhook`.
        """
        await self.open()
        name, adapted = self._agent(agent)
        asked = Asked.of(
            message,
            default=self.config,
            config=config,
            fingerprint=fingerprint,
            agent_name=name,
            agent=adapted,
            user_id=user_id,
            run_id=run_id,
            session_id=session_id,
            request=request_given(messages, state, tools, context, forwarded_props),
            deps=deps,
            output_type=output_type,
            notify=as_webhook(notify),
        )
        asked.check(self.limits, self.notify)
        return self._run(*await self.worker.start(asked))

    def _run(self, record: RunRecord, execution: Execution | None = None) -> Run:
        return Run(record, self.readers, self.worker.commands, execution)

    def _agent(self, agent: object) -> tuple[str, Agent]:
        if agent is None:
            if len(self.agents) != 1 and self.app_name not in self.agents:
                raise AgentNotFound(
                    f"say which agent: {', '.join(sorted(self.agents))}" if self.agents else "no agent is registered"
                )
            name = self.app_name if self.app_name in self.agents else next(iter(self.agents))
            return name, self.agents[name]
        if isinstance(agent, str):
            found = self.agents.get(agent) or _ELSEWHERE.get(agent)
            if found is None:
                raise AgentNotFound(f"no agent {agent!r}; there are: {', '.join(sorted(self.agents)) or 'none'}")
            return agent, found
        adapted = adapt(agent)
        return adapted.name, adapted

    # -- runs -------------------------------------------------------------------------------------------------------

    async def attach(self, run_id: str) -> Run:
        """Return a handle on the run `run_id`, wherever it executes. Raises `RunNotFound`, `StoreUnavailable`."""
        return self._run(await self.get_run(run_id))

    async def get_run(self, run_id: str) -> RunRecord:
        """Return the record of the run `run_id`. Raises `RunNotFound`, `StoreUnavailable`."""
        await self.open()
        return await self.readers.record(run_id)

    async def find_run(self, run_id: str) -> RunRecord | None:
        """Return the record of the run `run_id`, or None where there is no such run. Raises `StoreUnavailable`."""
        await self.open()
        return await self.readers.find(run_id)

    async def list_runs(
        self,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        """List at most `limit` runs of the store, newest first: those of `user_id`, of `session_id`, of this `status`,
        or all. They are without what records may be long by; `get_run` has it. `after` is the `next` of the page
        before. Raises `CursorInvalid`, `InputInvalid` for no status, `StoreUnavailable`, `UsageError`."""
        _check_limit(limit)
        status = one_of("status", status, RunStatus)
        await self.open()
        return await self.store.list_runs(
            user_id=user_id, session_id=session_id, status=status, limit=limit, after=after
        )

    async def current_run(self, session_id: str) -> RunRecord | None:
        """Return the run of session `session_id` that executes or waits for an answer, or else the one that is next;
        where none is active, the newest; None where there is none. Raises `StoreUnavailable`."""
        await self.open()
        return await self._sessions.current_run(session_id)

    async def active_runs(self, session_ids: Collection[str]) -> dict[str, RunRecord]:
        """Find, for each of the sessions `session_ids`, the run that executes or waits for an answer, or else the one
        that is next, in one question to the store. A session where nothing is active is not in the answer. Raises
        `StoreUnavailable`."""
        await self.open()
        return await self._sessions.active_runs(session_ids)

    async def cancel(self, run: str | RunRecord) -> RunRecord:
        """End a run as cancelled, wherever it executes; nothing happens to one that has ended. `run` is its id, or its
        record where that has just been read. Returns the record. Raises `RunNotFound`, `StoreUnavailable`."""
        record = await self._record(run)
        await self.worker.commands.cancel(record)
        return record

    async def answer(self, run: str | RunRecord, entries: list[ResumeEntry], *, some: bool = False) -> None:
        """Answer the interrupts of a waiting run, wherever it executes: all that it waits for, with one of `entries`
        each, or `some` of them; then it waits for the rest. `run` is its id, or its record where that has just been
        read.

        Raises `RunNotFound`, `InputInvalid`, `InputTooLarge`, `StoreUnavailable`."""
        await self.worker.commands.resolve(await self._record(run), entries, some=some)

    async def _record(self, run: str | RunRecord) -> RunRecord:
        await self.open()
        return run if isinstance(run, RunRecord) else await self.get_run(run)

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def create_session(
        self,
        session_id: str | None = None,
        *,
        user_id: str = ANONYMOUS,
        state: dict[str, Any] | None = None,
        agent: str | None = None,
    ) -> SessionRecord:
        """Create a session, or return the one that has the id already. Raises `InputInvalid` for what is no id,
        `SessionNotFound` when it is another user's, `InputTooLarge` for a state that is, `StoreUnavailable`.

        Args:
            session_id: Its id; None for a new one.
            user_id: Whose it is.
            state: What its agents find as its state.
            agent: Name of the agent that it is with; by default that of `app_name`.
        """
        await self.open()
        return await self._sessions.create(session_id, user_id=user_id, state=state, agent=agent or self.app_name)

    async def get_session(self, session_id: str) -> SessionRecord:
        """Return the record of the session `session_id`. Raises `SessionNotFound`, `StoreUnavailable`."""
        await self.open()
        return await self._sessions.get(session_id)

    async def find_session(self, session_id: str) -> SessionRecord | None:
        """Return the record of the session `session_id`, or None where there is none. Raises `StoreUnavailable`."""
        await self.open()
        return await self._sessions.find(session_id)

    async def turns(self, session_id: str) -> list[Turn]:
        """Return what each ended run of the session `session_id` has added to it, oldest first; empty where there is no
        such session. Raises `StoreUnavailable`."""
        await self.open()
        return await self._sessions.turns(session_id)

    async def update_state(self, session_id: str, changes: dict[str, Any]) -> SessionRecord:
        """Set the keys `changes` of the state of session `session_id`, as JSON. A run that was cancelled is waited
        for. Raises `SessionNotFound`, `SessionBusy` while another is active, `InputInvalid`, `InputTooLarge`,
        `StoreUnavailable`."""
        await self.open()
        return await self.worker.once_idle(lambda: self._sessions.update_state(session_id, changes))

    async def rename_session(self, session_id: str, title: str) -> SessionRecord:
        """Call the session `session_id` by this `title`, one line of at most 200 characters, also while a run of it is
        active; it stays in its place in lists. With "" it has the title of its first message again. Raises
        `SessionNotFound`, `InputInvalid`, `StoreUnavailable`."""
        await self.open()
        return await self._sessions.rename(session_id, title)

    async def list_sessions(
        self, *, user_id: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listing[SessionRecord]:
        """List at most `limit` sessions, of `user_id` or of all, latest used first, without their states. `after` is
        the `next` of the page before. Raises `CursorInvalid`, `StoreUnavailable`, `UsageError`."""
        _check_limit(limit)
        await self.open()
        return await self._sessions.latest(user_id=user_id, limit=limit, after=after)

    async def delete_session(self, session_id: str) -> None:
        """Delete the session `session_id` with its runs (a cancelled one is waited for), and what agents' frameworks
        keep of it. Raises `SessionNotFound`, `SessionBusy`, `StoreUnavailable`, `AgentFailed` where one can't."""
        await self.open()
        await self.worker.once_idle(lambda: self._sessions.delete(session_id, self.agents))

    async def messages(self, session_id: str, *, before: str | None = None) -> list[Message]:
        """Return the messages of the ended runs of session `session_id`, oldest first. With `before`, those that the
        message of this id is asked after: not what it, or another that was asked again, has replaced. Raises
        `SessionNotFound`, `StoreUnavailable`."""
        await self.open()
        return await self._sessions.messages(session_id, before=before)

    # -- keeping the lease ------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Renew this worker's lease and take over the runs of workers that lost theirs. Done by itself several times a
        lease. Raises `StoreUnavailable`."""
        await self._keeper.sweep()
