"""What one run of an ADK agent knows beside its translation: shared between the adapter and its plugin."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec
from google.adk.agents.invocation_context import InvocationContext, LlmCallsLimitExceededError
from google.adk.events import Event
from google.adk.runners import Runner
from google.genai import types

from gapless.agents import failing
from gapless.agents.adk_checkpoints import Progress
from gapless.agents.adk_events import Translation
from gapless.agents.adk_hearing import Hearing
from gapless.agents.adk_interrupts import interrupt_for, response_to, whether_again
from gapless.agents.adk_live import cannot_be_live, is_from_model
from gapless.agents.adk_resuming import Place, answered_by, place_of
from gapless.agents.adk_tools import Tools
from gapless.agents.adk_turn import CONFIRMATION, CREDENTIAL, failure_in
from gapless.agents.approving import ask
from gapless.agents.base import SEE_LOG, AgentItem, RunContext, log_raised
from gapless.agents.client_tools import left_to_client
from gapless.agents.exits import Exited
from gapless.agents.places import class_of
from gapless.agents.values import json_of
from gapless.agents.writing import notice, result
from gapless.attachments import digest_of, marks_of
from gapless.errors import (
    AgentInvalid,
    GaplessError,
    ModelFailed,
    RunLimit,
    StreamingUnavailable,
)
from gapless.events import (
    CustomEvent,
    TextPart,
)
from gapless.jsontext import decode_json

__all__ = ["Turn", "cannot_stream", "current", "failure"]

log = logging.getLogger("gapless.adk")


class Turn:
    """What one run knows beside its translation: shared between the adapter and its plugin."""

    def __init__(self, ctx: RunContext, translation: Translation, state: dict[str, Any] | None, *, live: bool) -> None:
        self.ctx = ctx
        self.translation = translation
        self.state = state
        """What the run sets in the session's state when it begins, or None."""
        self.live = live
        self.runner: Runner | None = None
        """What ADK runs it with."""
        self.hearing = Hearing(ctx, translation)
        self.progress: Progress | None = None
        """How far the run has come, where another worker can go on with it."""
        now = () if isinstance(ctx.content, str) else ctx.content
        asked = {digest_of(part.source.value) for part in now if not isinstance(part, TextPart)}
        earlier = marks_of(ctx.messages[:-1])
        self.left_out = {digest: why for digest, why in earlier.items() if digest not in asked}
        """What failed earlier turns, and is still in a session that the user's own service keeps."""
        self.notices: list[CustomEvent] = []
        self.noticed: set[str] = set()
        self.waiting: dict[Place, str] = {}
        """Agents that wait for a person also when ADK has what it is given now, each with a call that waits."""
        self._unanswered: dict[str, Place] = {}
        """Agents whose answers ADK is given later, by the call's id."""
        self.invocations: dict[str, None] = {}
        """Ids that ADK has given the run."""
        self.client_calls: list[str] = []
        """Calls of the client's own tools, which end the run: it comes back with their results."""
        self.chosen = ctx.checkpoint is not None
        """A client's choice of tools has been told to the model, which is told once."""
        self.tools = Tools()
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
            self.notices.append(notice(code, message))

    def is_of(self, invocation: InvocationContext) -> bool:
        """Return whether this is the conversation's own invocation, and not that of an agent that a tool runs."""
        return invocation.session.id == self.ctx.session_id

    def leave_to_client(self) -> bool:
        """Return whether nothing but the client's own tools is waited for; then the run ends with their calls."""
        own = {tool.name for tool in self.ctx.tools}
        pending = self.translation.pending
        if not all(call.name in own for call, _ in pending.values()):
            return False
        self.client_calls = [self.translation.shown_id(id) for id in pending]
        pending.clear()
        return True

    async def begin(self, message: types.Content) -> tuple[list[types.Content | None], list[AgentItem]]:
        """Return what ADK is to be given, None for going on with the invocation, and what is to be shown before."""
        progress = self.progress
        if progress is None or not progress.goes_on:
            return [message], []
        answers, items = progress.kept_answers(), list[AgentItem]()
        if progress.kept.asking:
            answers, items = self._answered(await self._answers())
        items += progress.catch_up()
        left = [answer for answer in answers if not progress.has(answer)]
        self._unanswered = {id: place for answer in left for id, place in progress.asked_by(answer)}
        idle = progress.kept.asking and not progress.beyond
        progress.answers = [*left] if idle else [None, *left]
        await self._ask_of_lost(progress)
        return progress.answers, items

    async def _ask_of_lost(self, progress: Progress) -> None:
        """Ask about calls that may not be made again unasked, where ADK cannot do it."""
        doubts = _doubts(progress)
        asked = {str(call.id): call for call in doubts.values()}
        questions = {id: interrupt_for(call, id, self.translation.shown_id, None) for id, call in asked.items()}
        answers = await ask(
            self.ctx, questions, lambda entry: response_to(asked[entry.interrupt_id], entry), progress.save
        )
        for id, call in doubts.items():
            progress.decided([id, *progress.lost_inside(id)], again=answers[str(call.id)]["confirmed"])

    def give(self, message: types.Content | None) -> None:
        """Note what ADK is given now."""
        for id in answered_by(message):
            self._unanswered.pop(id or "", None)
            self.translation.pending.pop(id or "", None)  # it is there yet where the answer was kept
        waits = {place_of(event): id for id, (_, event) in self.translation.pending.items()}
        self.waiting = waits | {place: id for id, place in self._unanswered.items()}

    async def ask(self) -> tuple[list[types.Content | None], list[AgentItem]]:
        """Ask what is pending; return the answers for ADK, and what of them is to be shown."""
        if self.progress is not None:
            await self.progress.ask()
        answers, items = self._answered(await self._answers())
        messages: list[types.Content | None] = [*answers]
        if self.progress is not None:
            self.progress.answers = messages
        return messages, items

    async def _answers(self) -> dict[str, dict[str, Any]]:
        """Ask until every answer is one that ADK takes; return them in its form, by the calls' ids."""
        questions = {one.id: one for one in self.translation.interrupts()}
        pending = self.translation.pending
        return await ask(self.ctx, questions, lambda entry: response_to(pending[entry.interrupt_id][0], entry))

    def _answered(self, responses: dict[str, dict[str, Any]]) -> tuple[list[types.Content], list[AgentItem]]:
        """Return the answers as the messages that ADK goes on with, and the results of calls that they are. Agents that
        work in parallel get theirs one after the other: ADK tells only one of them of a message. Results come before
        what ADK itself has asked: that is heeded in the newest message alone, and whatever stands beside it is hidden
        from the model."""
        parts, items = dict[tuple[bool, Place], list[types.Part]](), list[AgentItem]()
        for id, response in responses.items():
            call, source = self.translation.pending.pop(id)
            answer = types.FunctionResponse(id=call.id, name=call.name, response=response)
            place = call.name in (CONFIRMATION, CREDENTIAL), place_of(source)
            parts.setdefault(place, []).append(types.Part(function_response=answer))
            self._unanswered[id] = place_of(source)
            if not (call.name or "").startswith("adk_request_"):
                shown = self.translation.shown_id(call.id or "")
                items.append(result(f"{call.id}-result", shown, json_of(response), error=failure_in(response)))
        ordered = sorted(parts, key=lambda one: one[0])
        return [types.Content(role="user", parts=parts[place]) for place in ordered], items

    def left_open(self, *, cut: bool) -> list[Event]:
        """Return the events that the session lacks: text that was shown and not saved, answers to calls that got
        none.
        """
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
            events.append(_ended(call.id, call.name, source))
        return events

    def left_asking(self, events: Sequence[Event]) -> list[Event]:
        """Return what the session lacks where the run is cut: results of calls whose last response, in its `events`,
        says that they wait to be approved. The model would be told so in each turn to come."""
        asking = dict[str, Event]()
        for event in events:
            actions = event.actions
            for response in event.get_function_responses():
                asking.pop(response.id or "", None)
                if response.id in {*actions.requested_tool_confirmations, *actions.requested_auth_configs}:
                    asking[response.id or ""] = event
        names = {response.id: response.name for one in asking.values() for response in one.get_function_responses()}
        return [_ended(id, names[id], event) for id, event in asking.items()]

    def finish(self, root: object) -> None:
        """Record the agent's end: its typed output, or the error that its last answer was. Raises `ModelFailed`."""
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

    def ending(self) -> Iterable[AgentItem]:
        """Say why the agent stopped, and which calls are left to the client."""
        if self.translation.finish_reason is not None:
            reason = "tool_calls" if self.client_calls else self.translation.finish_reason
            yield CustomEvent(name="gapless.finish", value={"reason": reason})
        if self.client_calls:
            yield left_to_client(self.ctx, self.client_calls)


def _ended(id: str | None, name: str | None, source: Event) -> Event:
    """Return the answer to a call that gets none because the run ends; `source` is the event that waits for it."""
    response = types.FunctionResponse(id=id, name=name, response={"error": "The run was ended."})
    return Event(
        invocation_id=source.invocation_id,
        author=source.author,
        branch=source.branch,
        isolation_scope=source.isolation_scope,
        content=types.Content(role="user", parts=[types.Part(function_response=response)]),
    )


def _doubts(progress: Progress) -> dict[str, types.FunctionCall]:
    """Return, by id, the lost calls about which a person is to be asked before ADK goes on, each with the question:
    they were confirmed, and while ADK heeds the answer to one of its questions it asks no other."""
    calls = {call.id: call for event in progress.restored for call in event.get_function_calls()}
    found = {}
    for id, (question, *tools) in progress.confirmed.items():
        own = tools if id in progress.lost and id in progress.begun else []
        if id in calls and id not in progress.done and (names := own or progress.lost_inside(id).values()):
            found[id] = whether_again(question, calls[id], names)
    return found


current: ContextVar[Turn | None] = ContextVar("gapless_adk_turn", default=None)
"""The run whose task this is; None outside of one."""


def failure(turn: Turn, error: Exception) -> Exception:
    """Return what ADK raised, as one of Gapless's errors where it is known what it means. Its text stays here."""
    if isinstance(error, GaplessError):
        return error
    if isinstance(error.__cause__, GaplessError):  # of our plugin, which ADK wraps
        return error.__cause__
    if isinstance(error, LlmCallsLimitExceededError):
        return RunLimit(f"the agent wanted more than max_llm_calls={turn.ctx.config.max_llm_calls} model calls")
    if turn.tool_error is not None and turn.tool_error[1] is error:
        return failing.tool_failure(error, turn.ctx.run_id, [turn.tool_error[0]])
    if turn.tools.running and isinstance(error, Exited):  # ADK has not told of it: then it was no `Exception`
        return failing.tool_failure(error, turn.ctx.run_id, [*turn.tools.running.values()])
    if turn.live and cannot_be_live(error):
        return AgentInvalid("ADK cannot run an agent of this kind live: streaming_mode is sse or none for it")
    if turn.model_error is not None and not turn.live:
        error = turn.model_error  # ADK may fail itself while it tells of it
    if turn.model_error is error or (turn.live and is_from_model(error)):
        return _model_failure(turn, error)
    return error


def _model_failure(turn: Turn, error: Exception) -> GaplessError:
    if turn.live and isinstance(error, NotImplementedError):
        return ModelFailed("the model has no live connection: choose one that has, or streaming_mode sse or none")
    if _lacks_key(error):
        return ModelFailed("the model has no API key: set GOOGLE_API_KEY (or what your model's provider takes)")
    if cannot_stream(error):
        return StreamingUnavailable("the model cannot stream, and fallback is off")
    log_raised(log, turn.ctx.run_id, "its model call", error)
    known = failing.failure(error, turn.ctx.run_id)
    return known if isinstance(known, GaplessError) else ModelFailed(f"the model raised {class_of(error)}{SEE_LOG}")


def cannot_stream(error: Exception) -> bool:
    text = str(error).lower()
    refuses = "not support" in text or "unsupported" in text or "not implemented" in text or "not available" in text
    return "stream" in text and (refuses or isinstance(error, NotImplementedError))


def _lacks_key(error: Exception) -> bool:
    text = str(error).lower()
    return "api key" in text or "api_key" in text
