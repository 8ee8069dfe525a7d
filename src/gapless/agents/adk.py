"""Google ADK agents: an agent or node, an `App`, or a user's own `Runner`.

ADK runs the agent and keeps its session; this adapter drives its runner, translates its events (`adk_events`), answers
its requests for confirmation and results, and leaves a session behind in which the next turn works however a run ends.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from google.adk.agents import BaseAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.agents._streaming_mode import StreamingMode as ADKStreamingMode
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.agents.run_config import ToolThreadPoolConfig
from google.adk.apps import App, ResumabilityConfig
from google.adk.artifacts import InMemoryArtifactService
from google.adk.events import Event, EventActions
from google.adk.memory import InMemoryMemoryService
from google.adk.models import Gemini
from google.adk.runners import Runner
from google.adk.sessions import BaseSessionService, Session
from google.adk.workflow import BaseNode
from google.genai import types

from gapless.agents.adk_artifacts import ADKArtifacts
from gapless.agents.adk_before import open_turn, rewind
from gapless.agents.adk_checkpoints import FRAMEWORK, Progress
from gapless.agents.adk_events import Translation
from gapless.agents.adk_ledger import Ledger
from gapless.agents.adk_live import LiveTranslation, live_events
from gapless.agents.adk_plugin import Bridge
from gapless.agents.adk_raw import keeps_state_only
from gapless.agents.adk_run import Turn, current, failure
from gapless.agents.adk_sessions import JournalSessions, dump_event, encode_dumped, encode_turn, history, question
from gapless.agents.adk_threads import use_tool_threads
from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.config import RunConfig, StreamingMode
from gapless.errors import AgentInvalid, UsageError
from gapless.events import Message, ToolMessage
from gapless.live import is_live

if TYPE_CHECKING:
    from gapless.agents.adk_structure import ADKStructure

__all__ = ["ADKAgent"]

TOOL_THREADS_MAX = 32
"""Sync tools of ADK agents that run at once in this process; further ones wait for a thread."""
TURNS_AT_ONCE = 50
"""Turns of a session that are decoded before other runs have theirs, at some 0.1 ms each."""
DEPS_KEY = "temp:deps"
"""Where tools find the run's `deps`: `tool_context.state["temp:deps"]`, which ADK never persists."""

log = logging.getLogger("gapless.adk")


class ADKAgent(Agent):
    """Adapts one ADK agent, app or runner, `target`. `deps` makes a run's dependencies from its context where the
    caller gives none, as over HTTP. Raises `AgentInvalid` for anything else."""

    live = True
    """What ADK cannot run live fails when it is run so, as `agent_invalid`."""
    framework = FRAMEWORK

    def __init__(self, target: object, *, deps: Callable[[RunContext], Any] | None = None) -> None:
        self._target = target
        self._deps = deps
        self._runners: dict[str, Runner] = {}
        """By app name; the agent's own runner under every name."""
        self._service: BaseSessionService = JournalSessions()
        if isinstance(target, Runner):
            self.name: str = target.app_name
            self._service = target.session_service
        elif isinstance(target, App | BaseAgent | BaseNode):
            self.name = target.name
        else:
            raise AgentInvalid(f"cannot run a {type(target).__name__} of google.adk; give an agent, an App or a Runner")
        root = getattr(target, "agent", None) or getattr(target, "root_agent", None) or target
        self.output_type = getattr(root, "output_schema", None)
        chosen = getattr(target, "resumability_config", None)
        self.continues = "from_checkpoint" if chosen is None or chosen.is_resumable else "no"

    def use_session_service(self, service: object) -> None:
        """Keep the sessions in `service` instead of beside the journal. Raises `UsageError`."""
        if not isinstance(service, BaseSessionService):
            raise UsageError(f"session_service= takes an ADK session service, not a {type(service).__name__}")
        if isinstance(self._target, Runner) and service is not self._service:
            raise UsageError("the ADK Runner that you gave has a session service already; leave out session_service=")
        self._service = service
        self._runners.clear()

    async def aclose(self) -> None:
        """Close the toolsets and plugins, unless they are those of a runner that was given."""
        runners, self._runners = list(self._runners.values()), {}
        if not isinstance(self._target, Runner):
            for runner in runners:
                await runner.close()

    async def session_state(self, app_name: str, user_id: str, session_id: str) -> dict[str, Any] | None:
        """Return the state that the agent's own session service has of session `session_id` of `user_id` in `app_name`;
        None where it has none."""
        if isinstance(self._service, JournalSessions):
            return None
        name = self._runner(app_name).app_name
        found = await self._service.get_session(app_name=name, user_id=user_id, session_id=session_id)
        return None if found is None else dict(found.state)

    async def session_events(self, app_name: str, user_id: str, session_id: str) -> list[bytes] | None:
        """Return the events that the agent's own session service has of session `session_id` of `user_id` in
        `app_name`, as JSON; None where it has none."""
        if isinstance(self._service, JournalSessions):
            return None
        name = self._runner(app_name).app_name
        found = await self._service.get_session(app_name=name, user_id=user_id, session_id=session_id)
        return None if found is None else [dump_event(event) for event in self._shown(found.events)]

    @property
    def _marks_are_ours(self) -> bool:
        return getattr(self._target, "resumability_config", None) is None

    def _shown(self, events: list[Event]) -> list[Event]:
        """Leave out the marks of an app that was made resumable here: the user's own has none."""
        if not self._marks_are_ours:
            return events
        return [event for event in events if not keeps_state_only(event)]

    def artifacts(self, app_name: str) -> ADKArtifacts | None:
        """Return what keeps the artifacts of the sessions of `app_name`; None where the user's runner has nothing."""
        runner = self._runner(app_name)
        service = runner.artifact_service
        return None if service is None else ADKArtifacts(service, runner.app_name)

    def structure(self, app_name: str) -> ADKStructure:
        """Return what shows the agents that it is made of as the app `app_name`."""
        from gapless.agents.adk_structure import ADKStructure  # ADK's page alone asks, and it takes long to import

        target = self._target
        return ADKStructure(_app(target.agent if isinstance(target, Runner) else target, app_name))

    async def update_state(self, app_name: str, user_id: str, session_id: str, changes: dict[str, Any]) -> None:
        """Tell the agent's own session service of `changes` to the state of session `session_id` of `user_id` in
        `app_name`, as ADK's server does: by an event."""
        name, service = self._runner(app_name).app_name, self._service
        session: Session | None = Session(id=session_id, app_name=name, user_id=user_id)
        if not isinstance(service, JournalSessions):  # which keeps only what sessions share
            session = await service.get_session(app_name=name, user_id=user_id, session_id=session_id)
        if session is not None:
            event = Event(invocation_id=Event.new_id(), author="user", actions=EventActions(state_delta=changes))
            await service.append_event(session, event)

    async def remember(self, app_name: str, session: bytes) -> bool:
        """Give a `session` of `app_name`, as JSON, to the memory service of the agent's runner; False for none."""
        runner = self._runner(app_name)
        if runner.memory_service is None:
            return False
        kept = Session.model_validate_json(session).model_copy(update={"app_name": runner.app_name})
        await runner.memory_service.add_session_to_memory(kept)
        return True

    async def delete_session(self, app_name: str, user_id: str, session_id: str) -> None:
        """Drop session `session_id` of `user_id` in `app_name` from the agent's own session service."""
        if not isinstance(self._service, JournalSessions):
            name = self._runner(app_name).app_name
            await self._service.delete_session(app_name=name, user_id=user_id, session_id=session_id)

    def _runner(self, app_name: str) -> Runner:
        """Return the runner under this app name, which is the agent's name where it is registered."""
        known = self._runners.get(app_name)
        if known is not None:
            return known
        if isinstance(self._target, Runner):
            runner = _keeps_order(self._target, self._target.agent)
        else:
            runner = Runner(
                app=_app(self._target, app_name),
                app_name=app_name,
                session_service=self._service,
                artifact_service=InMemoryArtifactService(),
                memory_service=InMemoryMemoryService(),
            )
        if runner.plugin_manager.get_plugin(Bridge.NAME) is None:
            runner.plugin_manager.register_plugin(Bridge())
        Ledger.join(runner.plugin_manager)
        self._runners[app_name] = runner
        return runner

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        runner, live = self._runner(ctx.agent_name), is_live(ctx.config)
        earlier, brought, message = question(ctx.content, ctx.messages[:-1])
        session = await self._session(runner, ctx, ctx.messages[:-1] if live else earlier)
        before = len(session.events)
        if live:
            message = message or types.Content(role="user", parts=[types.Part(text="")])
        else:
            message = await self._begin(runner.session_service, session, ctx, brought, message)
        translation = (LiveTranslation if live else Translation)(ctx, runner.agent.name, dict(session.state))
        translation.hides_marks = self._marks_are_ours
        deps = self._deps(ctx) if ctx.deps is None and self._deps is not None else ctx.deps
        state = None if deps is None else {DEPS_KEY: deps}
        turn = Turn(ctx, translation, state, live=live)
        turn.runner = runner
        current.set(turn)
        ctx._cancelled = turn.tools.note
        complete = False
        try:
            if ctx.continues and not live:
                turn.progress = Progress(ctx, translation, before)
                service = await turn.progress.restore(runner.agent, runner.session_service, session)
                if turn.progress.goes_on:
                    runner = _resumable(runner)
                    runner.session_service = service
            messages, told = await turn.begin(message)
            while True:
                for item in told:
                    yield item
                while messages:
                    async with aclosing(self._items(runner, session, turn, messages.pop(0))) as items:
                        async for item in items:
                            yield item
                if live or not translation.pending or turn.leave_to_client():
                    break
                messages, told = await turn.ask()
            turn.finish(runner.agent)
            complete = True
            for item in turn.ending():
                yield item
        except Exception as error:
            known = failure(turn, error)
            if known is error:
                raise
            raise known from error
        finally:
            ctx._cancelled = None
            turn.tools.forget()
            self.deltas = turn.hearing.deltas
            await self._leave(runner, ctx, session, before, turn, cut=not complete)

    async def _begin(
        self,
        service: BaseSessionService,
        session: Session,
        ctx: RunContext,
        brought: Sequence[ToolMessage],
        message: types.Content | None,
    ) -> types.Content:
        """Give the session what it lacks before the message, and return that. Where another worker had begun the run,
        the session has it."""
        if ctx.checkpoint is None and not isinstance(service, JournalSessions):
            await rewind(service, session, ctx)
        return await open_turn(service, session, brought, message, begun=ctx.checkpoint is not None)

    async def _items(
        self, runner: Runner, session: Session, turn: Turn, message: types.Content | None
    ) -> AsyncGenerator[AgentItem, None]:
        """Let ADK answer one message, or all that is said to a live run, and translate its events."""
        config, state, progress = _run_config(turn.ctx.config), turn.state, turn.progress
        turn.give(message)
        task = asyncio.current_task()
        assert task is not None, "an agent runs in a task"
        abort = _Abort(task, turn.ctx)
        if turn.live:
            stream = live_events(runner, session, turn.ctx, config, state or {}, TOOL_THREADS_MAX)
        else:
            stream = runner.run_async(
                user_id=session.user_id,
                session_id=session.id,
                new_message=message,
                invocation_id=progress.invocation_id if progress is not None and message is None else None,
                run_config=config,
                state_delta=state if message is not None else None,
                abort_signal=abort,
            )
        translate, hearing = turn.translation.items, turn.hearing
        try:
            async for event in stream:
                turn.tools.goes_on(event)
                if hearing.failed is not None:
                    raise hearing.failed
                hearing.telling = True
                while turn.notices:
                    yield turn.notices.pop(0)
                if progress is not None:
                    progress.begin()
                items = translate(event)
                if progress is None or not progress.goes_on or not progress.repeats(event):
                    for item in items:
                        yield item
                hearing.told(event)
                if progress is not None:
                    await progress.end(event)
            if hearing.failed is not None:
                raise hearing.failed
            if not turn.live and not task.cancelling():
                turn.tools.raise_cancelled(turn.ctx.run_id)
        except BaseException:
            abort.set()
            await stream.aclose()
            raise
        for item in turn.translation.settle():
            yield item

    async def _session(self, runner: Runner, ctx: RunContext, earlier: Sequence[Message]) -> Session:
        """Return the run's ADK session: the service's own, or rebuilt from the store."""
        service = runner.session_service
        if not isinstance(service, JournalSessions):
            found = await service.get_session(app_name=runner.app_name, user_id=ctx.user_id, session_id=ctx.session_id)
            return found or await service.create_session(
                app_name=runner.app_name, user_id=ctx.user_id, session_id=ctx.session_id, state=dict(ctx.state)
            )
        turns = {}
        for at, native in enumerate(ctx.native_history, 1):
            if (turn := service.turn(native)) is not None:
                turns[turn[0]] = turn[1]
            if at % TURNS_AT_ONCE == 0:
                await asyncio.sleep(0)
        session = Session(
            id=ctx.session_id,
            app_name=runner.app_name,
            user_id=ctx.user_id,
            state=dict(ctx.state),
            last_update_time=0.0,
        )
        signed = isinstance(getattr(runner.agent, "canonical_model", None), Gemini)
        session.events = history(earlier, turns, runner.agent.name, signed=signed)  # not to be validated once more
        service.load(session)
        return session

    async def _leave(
        self, runner: Runner, ctx: RunContext, session: Session, before: int, turn: Turn, *, cut: bool
    ) -> None:
        """See to it that the session has what was shown, and that no call in it waits for an answer."""
        service = runner.session_service
        try:
            cut = cut and not ctx.left
            events = turn.left_open(cut=cut) if not ctx.left else []
            if (events or cut) and not isinstance(service, JournalSessions):
                session = (
                    await service.get_session(app_name=session.app_name, user_id=session.user_id, session_id=session.id)
                    or session
                )
            events += turn.left_asking(session.events[before:]) if cut else []
            known = {event.id for event in session.events}  # a whole event has the id of its partial ones
            for event in events:
                if event.id not in known:
                    await service.append_event(session, event)
        except Exception as error:  # the run's own end matters more
            log.warning("run %s: its ADK session lacks the end: %s", ctx.run_id, type(error).__name__)
        finally:
            if isinstance(service, JournalSessions):
                service.unload(session)
                if len(session.events) > before and not ctx.left:
                    events = self._shown(session.events[before:])
                    dumped = map(dump_event, events) if turn.progress is None else turn.progress.dumped(events)
                    ctx.native = encode_dumped(ctx.run_id, dumped)
            elif turn.invocations and not ctx.left:
                ctx.native = encode_turn(ctx.run_id, (), turn.invocations)


class _Abort(asyncio.Event):
    """Set as soon as the run's task is being cancelled, so that ADK seals its session while it unwinds; not when
    another worker goes on with the run, and with the session."""

    def __init__(self, task: asyncio.Task[Any], ctx: RunContext) -> None:
        super().__init__()
        self._task, self._ctx = task, ctx

    def is_set(self) -> bool:
        return (self._task.cancelling() > 0 or super().is_set()) and not self._ctx.left


def _app(target: Any, name: str) -> App:
    """Return the app to run: the one given, or one around a bare agent or node."""
    if isinstance(target, App):
        return _keeps_order(target, target.root_agent)
    # Like ADK's own runner around a bare agent, it is not validated: a name may hold more here than an app's there.
    return _keeps_order(App.model_construct(name=name, root_agent=target), target)


_CanResumeT = TypeVar("_CanResumeT", App, Runner)


def _keeps_order(target: _CanResumeT, agent: Any) -> _CanResumeT:
    """Return the app or runner of this agent, or one like it that resumes its invocations where that is left open and
    the agent, or one below it, runs others in an order of its own: it has to know how far it was when a person answers,
    or the run ends with the agent that asked. Others do not, and their sessions stay free of ADK's marks of it."""
    return _resumable(target) if target.resumability_config is None and _has_order(agent) else target


def _has_order(agent: Any) -> bool:
    if not isinstance(agent, BaseAgent):
        return False
    return isinstance(agent, SequentialAgent | LoopAgent | ParallelAgent) or any(map(_has_order, agent.sub_agents))


def _resumable(target: _CanResumeT) -> _CanResumeT:
    """Return one like this app or runner that resumes its invocations."""
    target = copy.copy(target)
    with warnings.catch_warnings():  # ADK calls it experimental
        warnings.simplefilter("ignore", UserWarning)
        target.resumability_config = ResumabilityConfig(is_resumable=True)
    return target


def _run_config(config: RunConfig) -> ADKRunConfig:
    given: dict[str, Any] = {}
    if config.max_llm_calls is not None:
        given["max_llm_calls"] = config.max_llm_calls
    if config.response_modalities is not None:
        given["response_modalities"] = [types.Modality(modality) for modality in config.response_modalities]
    if not is_live(config):
        given["tool_thread_pool_config"] = ToolThreadPoolConfig(max_workers=TOOL_THREADS_MAX)
        use_tool_threads(TOOL_THREADS_MAX)
    return ADKRunConfig(streaming_mode=_MODES[config.streaming_mode], **given)


_MODES = {
    StreamingMode.SSE: ADKStreamingMode.SSE,
    StreamingMode.NONE: ADKStreamingMode.NONE,
    StreamingMode.BIDI: ADKStreamingMode.BIDI,
}
