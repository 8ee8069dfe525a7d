"""Google ADK agents: an agent or node, an `App`, or a user's own `Runner`.

ADK runs the agent and keeps its session; this adapter drives its runner, translates its events (`adk_events`), answers
its requests for confirmation and results, and leaves a session behind in which the next turn works however a run ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Any, cast

import msgspec
from google.adk.agents import BaseAgent, InvocationContext, LlmAgent
from google.adk.agents._streaming_mode import StreamingMode as ADKStreamingMode
from google.adk.agents.invocation_context import LlmCallsLimitExceededError
from google.adk.agents.run_config import RunConfig as ADKRunConfig
from google.adk.agents.run_config import ToolThreadPoolConfig
from google.adk.apps import App
from google.adk.artifacts import InMemoryArtifactService
from google.adk.events import Event, EventActions
from google.adk.memory import InMemoryMemoryService
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions import BaseSessionService, Session
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.tool_context import ToolContext
from google.adk.workflow import BaseNode
from google.genai import types
from pydantic_core import to_jsonable_python

from gapless.agents.adk_events import Translation
from gapless.agents.adk_live import LiveTranslation, cannot_be_live, is_from_model, live_events
from gapless.agents.adk_sessions import JournalSessions, encode_turn, history, question
from gapless.agents.adk_turn import CONFIRMATION
from gapless.agents.base import SEE_LOG, Agent, AgentItem, RunContext, log_raised
from gapless.config import RunConfig, StreamingMode
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    ModelFailed,
    RunLimit,
    StreamingUnavailable,
    ToolFailed,
    UsageError,
)
from gapless.events import (
    CustomEvent,
    Message,
    ResumeEntry,
    RunFinishedEvent,
    RunFinishedSuccessOutcome,
    Tool,
    ToolCallResultEvent,
)
from gapless.jsontext import decode_json
from gapless.live import is_live

__all__ = ["ADKAgent"]

AHEAD_EVENTS_MAX = 64
"""How far a model's stream may run ahead of the journal; ADK's own queue has no bound."""
AHEAD_POLL_S = 0.005
"""How often a model that is held back looks again."""
TOOL_THREADS_MAX = 32
"""Sync tools of ADK agents that run at once in this process; further ones wait for a thread."""
DEPS_KEY = "temp:deps"
"""Where tools find the run's `deps`: `tool_context.state["temp:deps"]`, which ADK never persists."""

log = logging.getLogger("gapless.adk")


class ADKAgent(Agent):
    """Adapts one ADK agent, app or runner. `deps` makes a run's dependencies from its context where the caller gives
    none, as over HTTP. Raises `AgentInvalid` for anything else."""

    live = True
    """What ADK cannot run live fails when it is run so, as `agent_invalid`."""

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
        """The state of a session that the agent's own session service has; None where it has none."""
        if isinstance(self._service, JournalSessions):
            return None
        name = self._runner(app_name).app_name
        found = await self._service.get_session(app_name=name, user_id=user_id, session_id=session_id)
        return None if found is None else dict(found.state)

    async def update_state(self, app_name: str, user_id: str, session_id: str, changes: dict[str, Any]) -> None:
        """Tell the agent's own session service of changes to a session's state, as ADK's server does: by an event."""
        name, service = self._runner(app_name).app_name, self._service
        session: Session | None = Session(id=session_id, app_name=name, user_id=user_id)
        if not isinstance(service, JournalSessions):  # which keeps only what sessions share
            session = await service.get_session(app_name=name, user_id=user_id, session_id=session_id)
        if session is not None:
            event = Event(invocation_id=Event.new_id(), author="user", actions=EventActions(state_delta=changes))
            await service.append_event(session, event)

    def _runner(self, app_name: str) -> Runner:
        """The runner under this app name, which is the agent's name where it is registered."""
        known = self._runners.get(app_name)
        if known is not None:
            return known
        if isinstance(self._target, Runner):
            runner = self._target
        else:
            given: dict[str, Any] = {_kind(self._target): self._target}
            runner = Runner(
                app_name=app_name,
                session_service=self._service,
                artifact_service=InMemoryArtifactService(),
                memory_service=InMemoryMemoryService(),
                **given,
            )
        if runner.plugin_manager.get_plugin(_Bridge.NAME) is None:
            runner.plugin_manager.register_plugin(_Bridge())
        self._runners[app_name] = runner
        return runner

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        runner = self._runner(ctx.agent_name)
        live = is_live(ctx.config)
        earlier, message = question(ctx.content, ctx.messages[:-1])
        session = await self._session(runner, ctx, ctx.messages[:-1] if live else earlier)
        before = len(session.events)
        translation = (LiveTranslation if live else Translation)(ctx, runner.agent.name, dict(session.state))
        turn = _Turn(ctx, translation, live=live)
        _current.set(turn)
        task = asyncio.current_task()
        assert task is not None, "an agent runs in a task"
        abort = _Abort(task)
        config = _run_config(ctx.config)
        deps = self._deps(ctx) if ctx.deps is None and self._deps is not None else ctx.deps
        state = None if deps is None else {DEPS_KEY: deps}
        translate, complete = translation.items, False
        try:
            while True:
                if live:
                    stream = live_events(runner, session, ctx, config, state or {}, TOOL_THREADS_MAX)
                else:
                    stream = runner.run_async(
                        user_id=session.user_id,
                        session_id=session.id,
                        new_message=message,
                        run_config=config,
                        state_delta=state,
                        abort_signal=abort,
                    )
                try:
                    async for event in stream:
                        while turn.notices:
                            yield turn.notices.pop(0)
                        for item in translate(event):
                            yield item
                except BaseException:
                    abort.set()
                    await stream.aclose()
                    raise
                for item in turn.translation.settle():
                    yield item
                if live or not turn.translation.pending or turn.leave_to_client():
                    break
                answers = await ctx.interrupt(turn.translation.interrupts())
                message, results = turn.answered(answers)
                for item in results:
                    yield item
            turn.finish(runner.agent)
            complete = True
            if turn.translation.finish_reason is not None:
                reason = "tool_calls" if turn.client_calls else turn.translation.finish_reason
                yield CustomEvent(name="gapless.finish", value={"reason": reason})
            if turn.client_calls:
                outcome = RunFinishedSuccessOutcome(pending_tool_call_ids=turn.client_calls)
                yield RunFinishedEvent(thread_id=ctx.session_id, run_id=ctx.run_id, outcome=outcome)
        except Exception as error:
            failure = turn.failure(error)
            if failure is error:
                raise
            raise failure from error
        finally:
            await self._leave(runner, ctx, session, before, turn, cut=not complete)

    async def _session(self, runner: Runner, ctx: RunContext, earlier: Sequence[Message]) -> Session:
        """The run's ADK session: the service's own, or rebuilt from the store."""
        service = runner.session_service
        if not isinstance(service, JournalSessions):
            found = await service.get_session(app_name=runner.app_name, user_id=ctx.user_id, session_id=ctx.session_id)
            return found or await service.create_session(
                app_name=runner.app_name, user_id=ctx.user_id, session_id=ctx.session_id, state=dict(ctx.state)
            )
        turns = dict(turn for native in ctx.native_history if (turn := service.turn(native)) is not None)
        session = Session(
            id=ctx.session_id,
            app_name=runner.app_name,
            user_id=ctx.user_id,
            state=dict(ctx.state),
            last_update_time=0.0,
        )
        session.events = history(earlier, turns, runner.agent.name)  # not to be validated once more
        service.load(session)
        return session

    async def _leave(
        self, runner: Runner, ctx: RunContext, session: Session, before: int, turn: _Turn, *, cut: bool
    ) -> None:
        """See to it that the session has what was shown, and that no call in it waits for an answer."""
        service = runner.session_service
        try:
            events = turn.left_open(cut=cut)
            if events and not isinstance(service, JournalSessions):
                session = (
                    await service.get_session(app_name=session.app_name, user_id=session.user_id, session_id=session.id)
                    or session
                )
            known = {event.id for event in session.events}  # a whole event has the id of its partial ones
            for event in events:
                if event.id not in known:
                    await service.append_event(session, event)
        except Exception as error:  # the run's own end matters more
            log.warning("run %s: its ADK session lacks the end: %s", ctx.run_id, type(error).__name__)
        finally:
            if isinstance(service, JournalSessions):
                service.unload(session)
                if len(session.events) > before:
                    ctx.native = encode_turn(ctx.run_id, session.events[before:])


class _Turn:
    """What one run knows beside its translation: shared between the adapter and its plugin."""

    def __init__(self, ctx: RunContext, translation: Translation, *, live: bool) -> None:
        self.ctx = ctx
        self.translation = translation
        self.live = live
        self.notices: list[CustomEvent] = []
        self.noticed: set[str] = set()
        self.client_calls: list[str] = []
        """Calls of the client's own tools, which end the run: it comes back with their results."""
        self.tool_error: tuple[str, Exception] | None = None
        self.model_error: Exception | None = None
        if live:  # ADK opens a live model's connection without asking anybody
            if ctx.tools:
                self.notice("tools_ignored", "a live run has the agent's own tools alone")
            if ctx.config.model_settings:
                self.notice("setting_ignored", "a live run has the model settings of the agent alone")

    def notice(self, code: str, message: str) -> None:
        """Say something once in the stream."""
        if code not in self.noticed:
            self.noticed.add(code)
            self.notices.append(CustomEvent(name="gapless.notice", value={"code": code, "message": message}))

    def leave_to_client(self) -> bool:
        """Whether nothing but the client's own tools is waited for; then the run ends with their calls."""
        own = {tool.name for tool in self.ctx.tools}
        pending = self.translation.pending
        if not all(call.name in own for call, _ in pending.values()):
            return False
        self.client_calls = [self.translation.shown_id(id) for id in pending]
        pending.clear()
        return True

    def answered(self, entries: list[ResumeEntry]) -> tuple[types.Content, list[AgentItem]]:
        """The answers as the message that ADK goes on with, and the results of calls that they are."""
        parts, items = [], list[AgentItem]()
        for entry in entries:
            call, _ = self.translation.pending.pop(entry.interrupt_id)
            response = _response_to(call, entry)
            answer = types.FunctionResponse(id=call.id, name=call.name, response=response)
            parts.append(types.Part(function_response=answer))
            if not (call.name or "").startswith("adk_request_"):
                content = msgspec.json.encode(to_jsonable_python(response, serialize_unknown=True)).decode()
                items.append(
                    ToolCallResultEvent(
                        message_id=f"{call.id}-result",
                        tool_call_id=self.translation.shown_id(call.id or ""),
                        content=content,
                    )
                )
        return types.Content(role="user", parts=parts), items

    def left_open(self, *, cut: bool) -> list[Event]:
        """The events that the session lacks: text that was shown and not saved, answers to calls that got none."""
        events = []
        for source, text in self.translation.unsaved():
            events.append(
                Event(
                    id=source.id,
                    invocation_id=source.invocation_id,
                    author=source.author,
                    branch=source.branch,
                    isolation_scope=source.isolation_scope,
                    content=types.Content(
                        role="user" if source.author == "user" else "model", parts=[types.Part(text=text)]
                    ),
                    interrupted=cut or None,
                )
            )
        for call, source in self.translation.pending.values():
            response = types.FunctionResponse(id=call.id, name=call.name, response={"error": "The run was ended."})
            events.append(
                Event(
                    invocation_id=source.invocation_id,
                    author=source.author,
                    branch=source.branch,
                    isolation_scope=source.isolation_scope,
                    content=types.Content(role="user", parts=[types.Part(function_response=response)]),
                )
            )
        return events

    def finish(self, root: object) -> None:
        """At the agent's end: its typed output, or the error that its last answer was. Raises `ModelFailed`."""
        translation, ctx = self.translation, self.ctx
        if translation.error is not None:
            code, message = translation.error
            raise ModelFailed(message or f"the model answered with {code}", code=code)
        typed = ctx.output_type not in (None, str) or getattr(root, "output_schema", None) is not None
        if ctx.result is None and typed:
            try:
                ctx.result = decode_json(translation.final_text)
            except msgspec.DecodeError:
                log.debug("run %s: the answer is not JSON", ctx.run_id)

    def failure(self, error: Exception) -> Exception:
        """What ADK raised, as one of Gapless's errors where it is known what it means. Its text stays here."""
        kind = type(error).__name__
        if isinstance(error, GaplessError):
            return error
        if isinstance(error, LlmCallsLimitExceededError):
            return RunLimit(f"the agent wanted more than max_llm_calls={self.ctx.config.max_llm_calls} model calls")
        if self.tool_error is not None and self.tool_error[1] is error:
            log_raised(log, self.ctx.run_id, f"tool {self.tool_error[0]}", error)
            return ToolFailed(f"the tool {self.tool_error[0]} raised {kind}{SEE_LOG}")
        if self.live and cannot_be_live(error):
            return AgentInvalid("ADK cannot run an agent of this kind live: streaming_mode is sse or none for it")
        if self.model_error is error or (self.live and is_from_model(error)):
            if self.live and isinstance(error, NotImplementedError):
                return ModelFailed(
                    "the model has no live connection: choose one that has, or streaming_mode sse or none"
                )
            if _lacks_key(error):
                return ModelFailed("the model has no API key: set GOOGLE_API_KEY (or what your model's provider takes)")
            if _cannot_stream(error):
                return StreamingUnavailable("the model cannot stream, and fallback is off")
            status = getattr(error, "status", None) or getattr(error, "code", None)
            detail = f" ({status})" if isinstance(status, str | int) else ""
            log_raised(log, self.ctx.run_id, "its model call", error)
            return ModelFailed(f"the model call raised {kind}{detail}{SEE_LOG}")
        return error


class ClientTool(BaseTool):
    """A tool that the client offers and executes itself: the agent may call it, and its result comes later."""

    def __init__(self, tool: Tool) -> None:
        super().__init__(name=tool.name, description=tool.description, is_long_running=True)
        self._parameters = tool.parameters or {"type": "object", "properties": {}}

    def _get_declaration(self) -> types.FunctionDeclaration:
        return types.FunctionDeclaration(
            name=self.name, description=self.description, parameters_json_schema=self._parameters
        )

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> None:
        """Nothing to run here: no result yet."""


_current: ContextVar[_Turn | None] = ContextVar("gapless_adk_turn", default=None)


class _Abort(asyncio.Event):
    """Set as soon as the run's task is being cancelled, so that ADK seals its session while it unwinds."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        super().__init__()
        self._task = task

    def is_set(self) -> bool:
        return self._task.cancelling() > 0 or super().is_set()


class _Bridge(BasePlugin):
    """Applies a run's settings to its model calls, holds them back while the journal is behind, and notes errors."""

    NAME = "gapless"

    def __init__(self) -> None:
        super().__init__(name=self.NAME)

    async def before_model_callback(self, *, callback_context: Any, llm_request: LlmRequest) -> None:
        turn = _current.get()
        if turn is None or turn.live:  # then it is for a look at what was said, and comes too late for settings
            return
        llm_request.append_tools([ClientTool(tool) for tool in turn.ctx.tools])
        for name, value in turn.ctx.config.model_settings.items():
            field = _SETTINGS.get(name, name)
            if name == "response_format":
                _ask_for_json(llm_request.config, value)
            elif field == "model":
                llm_request.model = value
            elif field in types.GenerateContentConfig.model_fields:
                setattr(llm_request.config, field, value)
            else:
                turn.notice("setting_ignored", f"ADK's models take no setting {name!r}")

    async def after_model_callback(self, *, callback_context: Any, llm_response: LlmResponse) -> None:
        queue = _invocation(callback_context)._event_queue
        if queue is not None:
            # A look now and then, not an event: the queue may be one that an agent's tool reads, which tells nobody.
            while queue.qsize() > AHEAD_EVENTS_MAX:  # noqa: ASYNC110
                await asyncio.sleep(AHEAD_POLL_S)

    async def on_model_error_callback(
        self, *, callback_context: Any, llm_request: LlmRequest, error: Exception
    ) -> LlmResponse | None:
        turn = _current.get()
        if turn is None:
            return None
        turn.model_error = error
        streaming = turn.ctx.config.streaming_mode is not StreamingMode.NONE
        if not (streaming and turn.ctx.config.fallback and _cannot_stream(error)):
            return None
        model = cast(LlmAgent, _invocation(callback_context).agent).canonical_model
        last: LlmResponse | None = None
        try:
            async for response in model.generate_content_async(llm_request, stream=False):
                last = response
        except Exception as second:
            log.warning("run %s: its model failed without streaming too: %s", turn.ctx.run_id, type(second).__name__)
            return None
        turn.notice("streaming_unavailable", "the model cannot stream; its answer came in one piece")
        return last

    async def on_tool_error_callback(
        self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any, error: Exception
    ) -> None:
        turn = _current.get()
        if turn is not None:
            turn.tool_error = tool.name, error


def _kind(target: object) -> str:
    """The name of the parameter by which ADK's `Runner` takes it."""
    return "app" if isinstance(target, App) else "agent" if isinstance(target, BaseAgent) else "node"


_SETTINGS = {"max_tokens": "max_output_tokens", "stop": "stop_sequences"}
"""Names that other frameworks use for what Gemini's configuration calls otherwise."""


def _ask_for_json(config: types.GenerateContentConfig, response_format: Any) -> None:
    """What a client of OpenAI's API asks for, unless the agent has a schema of its own."""
    wanted = response_format if isinstance(response_format, dict) else {}
    if wanted.get("type") not in ("json_object", "json_schema") or config.response_schema is not None:
        return
    config.response_mime_type = "application/json"
    schema = wanted.get("json_schema")
    config.response_json_schema = schema.get("schema") if isinstance(schema, dict) else None


def _invocation(callback_context: Any) -> InvocationContext:
    return callback_context._invocation_context  # type: ignore[no-any-return]  # ADK has no public name for it


def _run_config(config: RunConfig) -> ADKRunConfig:
    given: dict[str, Any] = {}
    if config.max_llm_calls is not None:
        given["max_llm_calls"] = config.max_llm_calls
    if config.response_modalities is not None:
        given["response_modalities"] = [types.Modality(modality) for modality in config.response_modalities]
    if not is_live(config):
        given["tool_thread_pool_config"] = ToolThreadPoolConfig(max_workers=TOOL_THREADS_MAX)
    return ADKRunConfig(streaming_mode=_MODES[config.streaming_mode], **given)


_MODES = {
    StreamingMode.SSE: ADKStreamingMode.SSE,
    StreamingMode.NONE: ADKStreamingMode.NONE,
    StreamingMode.BIDI: ADKStreamingMode.BIDI,
}


def _response_to(call: types.FunctionCall, entry: ResumeEntry) -> dict[str, Any]:
    """A person's answer in the form that ADK wants for this call."""
    payload, cancelled = entry.payload, entry.status == "cancelled"
    if call.name == CONFIRMATION:
        if isinstance(payload, dict) and list(payload) == ["response"] and isinstance(payload["response"], str):
            with contextlib.suppress(msgspec.DecodeError):  # what is no JSON approves nothing
                payload = decode_json(payload["response"])  # as ADK's own clients wrap it
        answer = payload if isinstance(payload, dict) else {"approved": payload}
        approved = answer.get("approved", answer.get("confirmed")) is True  # nothing but a clear yes approves
        return {"confirmed": approved and not cancelled, "payload": answer.get("payload")}
    if cancelled:
        return {"error": "cancelled"}
    return payload if isinstance(payload, dict) else {"result": payload}


def _cannot_stream(error: Exception) -> bool:
    text = str(error).lower()
    refuses = "not support" in text or "unsupported" in text or "not implemented" in text or "not available" in text
    return "stream" in text and (refuses or isinstance(error, NotImplementedError))


def _lacks_key(error: Exception) -> bool:
    text = str(error).lower()
    return "api key" in text or "api_key" in text
