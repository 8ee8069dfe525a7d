"""What one run of a Pydantic AI agent has done so far: its messages, what its calls returned, what people answered.

That is what another worker needs to go on: it gives the framework the messages, and a call that has returned is given
what it returned instead of being made again. Saved after each answer of the model, after each call, and before each
question and each request.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
import pydantic_core
from pydantic import TypeAdapter
from pydantic_ai import CallToolsNode, ModelRequestNode, __version__, exceptions, tools
from pydantic_ai import messages as m
from pydantic_ai.agent import AgentRun
from pydantic_ai.tool_manager import ToolManager
from pydantic_ai.usage import RunUsage

from gapless.agents.base import RunContext
from gapless.agents.pydantic_ai_events import carried_by
from gapless.agents.pydantic_ai_history import dump
from gapless.config import StreamingMode
from gapless.errors import CheckpointUnreadable
from gapless.events import Event, ResumeEntry, decode_event

__all__ = ["FRAMEWORK", "UNKNOWN", "Ledger"]

FRAMEWORK = f"pydantic-ai {__version__}"

UNKNOWN = "It is unknown whether this call took effect: the process that made it was lost. Look before calling again."
"""What the model is told of a call that may not be made again."""

Kind: TypeAlias = Literal["value", "return", "retry", "failed", "approval", "external", "question"]
"""How a call ended: it returned, is to be made again with other arguments, has failed, or was left to others."""


class _Outcome(msgspec.Struct, array_like=True):
    """Is what a call gave: the request that tells the model, and the events that the application is told."""

    kind: Kind
    told: bytes
    tools: list[str] | None = None
    events: list[bytes] = []


class _Answer(msgspec.Struct, array_like=True):
    kind: str
    entry: ResumeEntry


class _Kept(msgspec.Struct, array_like=True):
    """Is a checkpoint. A later one may only add fields at its end."""

    framework: str
    run_ids: list[str]
    whole: bool
    """`messages` are all, not only this turn's: what came before is not what the session has."""
    reused: bool
    """The turn begins with the last request of what came before: there was no new message."""
    messages: list[bytes]
    outcomes: dict[str, _Outcome]
    shown: list[str]
    begun: dict[str, str]
    answers: list[_Answer]
    usage: bytes
    after_text: bool
    streaming: bool
    run_step: int
    output_retries: int
    retries: dict[str, int]
    state: bytes | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode
_encode_json = msgspec.json.Encoder().encode
_usage = TypeAdapter(RunUsage)


class Ledger:
    """Keeps what one run has done. Raises `CheckpointUnreadable` where another worker's cannot be read here."""

    def __init__(self, ctx: RunContext) -> None:
        self.run: AgentRun[Any, Any] | None = None
        self.usage: RunUsage | None = None
        """What was used before `run`."""
        self.streaming = ctx.config.streaming_mode is not StreamingMode.NONE
        self.after_text = False
        """The response before ended in text: what the next one says is another message."""
        self.told: m.ModelResponse | None = None
        """The response that was said by the worker before."""
        self.begun: dict[str, str] = {}
        """Calls under way that may not be made again, and what to do instead."""
        self.lost: set[str] = set()
        """Those of another worker, of which nobody knows whether they took effect."""
        self._ctx = ctx
        self._run_ids: set[str] = set()
        """The framework's ids of this turn's runs."""
        self._bytes: dict[int, tuple[m.ModelMessage, bytes]] = {}
        """Each message in its final form, by identity."""
        self._earlier: list[m.ModelMessage] | None = None
        """What came before this turn, as the framework has it."""
        self._whole = False
        self._reused = not ctx.content
        self._restored: list[m.ModelMessage] | None = None
        self._history_size = 0
        self._outcomes: dict[str, _Outcome] = {}
        self._known: dict[str, _Outcome] = {}
        """Outcomes of another worker that this one has not come to yet."""
        self._events: dict[str, list[bytes]] = {}
        self._shown: list[str] = []
        """Calls of the step at hand whose results are in the journal."""
        self._shown_before: set[str] = set()
        self._answers: dict[tuple[str, str], ResumeEntry] = {}
        self._executing: set[str] = set()
        self._retries: dict[str, int] = {}
        self._kept_step: tuple[int, int] | None = None
        self._state: Any = None
        """The framework's `StateDeps`, where it has the session's state."""
        self._kept_state: bytes | None = None
        if ctx.checkpoint is not None:
            self._load(ctx.checkpoint)

    # -- the turn's messages ----------------------------------------------------------------------------------------

    def begin(self, run: AgentRun[Any, Any]) -> None:
        """Take up one run of the agent's graph."""
        self.run = run
        self._run_ids.add(run.run_id)
        if self._kept_step is not None:
            run.ctx.state.run_step, run.ctx.state.output_retries_used = self._kept_step

    def messages(self) -> Sequence[m.ModelMessage]:
        """Return this turn's messages."""
        # By run, not by position: a history processor may have dropped messages before them.
        return [] if self.run is None else [one for one in self.run.all_messages() if one.run_id in self._run_ids]

    def go_blocking(self) -> list[m.ModelMessage]:
        """Let the model be asked again: return the messages up to the request that got no answer."""
        if self.run is not None:
            self.usage = self.run.usage
        messages = [] if self.run is None else list(self.run.all_messages())
        while messages and isinstance(messages[-1], m.ModelResponse):
            messages.pop()
        return messages

    def end(self) -> None:
        """Let the framework's run go, which refers to this."""
        self.run = None

    def keep_state(self, deps: Any) -> None:
        """Keep the state in `deps`, which was made of the session's, and bring it to where it stood."""
        self._state = deps
        if self._kept_state is not None:
            deps.state = type(deps.state).model_validate_json(self._kept_state)

    # -- going on ---------------------------------------------------------------------------------------------------

    @property
    def restored(self) -> bool:
        """Returns whether another worker had begun the turn."""
        return self._restored is not None

    def history(self, before: list[m.ModelMessage]) -> list[m.ModelMessage]:
        """Return the messages to go on from, after those `before` the turn."""
        assert self._restored is not None, "another worker had begun"
        if self._whole:
            before = []
        elif self._reused:
            before = before[:-1]
        self._history_size = len(before)
        self._earlier = before
        return [*before, *self._restored]

    def first(self, node: Any) -> Any:
        """Return the graph's first step: `node`, or the one that the turn stands at."""
        run, restored = self.run, self._restored
        if run is None or restored is None or self._kept_step is None:
            return node
        messages, size, tail = run.all_messages(), self._history_size, restored[-1]
        ours = restored if isinstance(tail, m.ModelResponse) else restored[:-1]
        if size and len(messages) < size + len(ours):  # two requests side by side: the framework has made them one
            messages[size - 1 :] = [*(self._earlier or [])[-1:], *ours]
        self._earlier = messages[: len(messages) - len(ours)]
        if isinstance(tail, m.ModelResponse):
            self.told = messages[-1] if isinstance(messages[-1], m.ModelResponse) else tail
            run.ctx.state.run_step += 1
            # With instructions, the framework would ask for an answer to nothing after one that called no tool.
            if isinstance(node, ModelRequestNode) and tail.state != "suspended":
                node = CallToolsNode(self.told)
        self._kept_step = None
        return node

    def begin_tools(self) -> None:
        """Note that the tools of a response run next."""
        if self._retries and self.run is not None and (known := self.run.ctx.deps.tool_manager.ctx) is not None:
            known.retries.update(self._retries)
        self._retries = {}

    # -- calls ------------------------------------------------------------------------------------------------------

    async def execute(
        self,
        ctx: tools.RunContext[Any],
        call: m.ToolCallPart,
        tool: tools.ToolDefinition,
        make: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Make a call by `make`, unless it has been made."""
        id = call.tool_call_id
        if not self._ctx.continues:
            return await make()
        if (outcome := self._known.pop(id, None)) is not None:
            self._outcomes[id] = outcome
            return self._again(ctx, call, outcome)
        if id in self.lost:
            if self.begun[id] == "ask":
                raise exceptions.ApprovalRequired
            raise exceptions.ToolFailed(UNKNOWN)
        if (instead := _instead(tool)) is not None:
            self.begun[id] = instead
            self._answers.pop(("repeat", id), None)
            await self.save(leave=False)
        self._executing.add(id)
        try:
            result = await make()
        except exceptions.ToolRetryError as error:
            self._returned("retry", error.tool_retry, call)
            raise
        except exceptions.ToolFailedError as error:
            self._returned("failed", error.tool_failed, call)
            raise
        except exceptions.ApprovalRequired as left:
            self._returned("approval", left, call)
            raise
        except exceptions.CallDeferred as left:
            self._returned(left.kind, left, call)
            raise
        finally:
            self._executing.discard(id)
        self._returned("return" if isinstance(result, m.ToolReturn) else "value", result, call)
        if ctx.tool_manager is not None and ctx.tool_manager.get_parallel_execution_mode() == "parallel_ordered_events":
            await self.save(leave=False)  # its result is told when others have returned
        return result

    def _returned(self, kind: Kind, result: Any, call: m.ToolCallPart) -> None:
        self.begun.pop(call.tool_call_id, None)
        parts: list[m.ModelRequestPart] = []
        names: list[str] | None = None
        if isinstance(result, m.ToolReturn):
            part = m.ToolReturnPart(call.tool_name, result.return_value, call.tool_call_id, metadata=result.metadata)
            names = None if result.tools is None else list(result.tools)
            if result.content:
                parts.append(m.UserPromptPart(result.content))
        elif isinstance(result, m.ToolReturnPart):
            part = result
        elif isinstance(result, exceptions.CallDeferred | exceptions.ApprovalRequired):
            part = m.ToolReturnPart(call.tool_name, "", call.tool_call_id, metadata=result.metadata)
        else:
            part = m.ToolReturnPart(call.tool_name, result, call.tool_call_id)
        told = _dump(m.ModelRequest(parts=[part, *parts]))
        events = [_encode_json(event) for event in carried_by(part)]
        self._outcomes[call.tool_call_id] = _Outcome(kind, told, names, events)

    def _again(self, ctx: tools.RunContext[Any], call: m.ToolCallPart, outcome: _Outcome) -> Any:
        (request,) = _load([outcome.told])
        part = request.parts[0]
        assert isinstance(part, m.ToolReturnPart), "it was made of one"
        if outcome.kind == "approval":
            raise exceptions.ApprovalRequired(part.metadata)
        if outcome.kind in ("external", "question"):
            raise exceptions.CallDeferred(part.metadata, kind=outcome.kind)
        self._events[call.tool_call_id] = outcome.events
        if outcome.kind == "failed":
            raise exceptions.ToolFailedError(part)
        if outcome.kind == "retry":
            if ctx.tool_manager is not None:
                ctx.tool_manager.failed_tools.add(call.tool_name)
            raise exceptions.ToolRetryError(part)
        ctx.usage.tool_calls += 1
        if outcome.kind == "value":
            return part.content
        said = request.parts[1] if len(request.parts) > 1 else None
        content = said.content if isinstance(said, m.UserPromptPart) else None
        return m.ToolReturn(part.content, content=content, metadata=part.metadata, tools=outcome.tools)

    def show(self, part: m.BaseToolReturnPart[Any]) -> Sequence[Event] | None:
        """Note that a call's result is told now; returns the events that it carries, None if it was told before."""
        id = part.tool_call_id
        events = self._events.pop(id, None)
        self._shown.append(id)
        if id in self._shown_before:
            self._shown_before.discard(id)
            return None
        return [*carried_by(part)] if events is None else [decode_event(event) for event in events]

    # -- answers ----------------------------------------------------------------------------------------------------

    def answer(self, kind: str, call_id: str) -> ResumeEntry | None:
        """Return what a person has answered in this step; `kind` is what was asked about the call."""
        return self._answers.get((kind, call_id))

    def answered(self, kind: str, entry: ResumeEntry) -> None:
        """Keep a person's answer."""
        self._answers[kind, entry.interrupt_id] = entry

    def repeat(self, call_id: str) -> None:
        """Note that a person wants a call to be made again."""
        self.lost.discard(call_id)
        self.begun.pop(call_id, None)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    async def save_request(self, request: m.ModelRequest) -> None:
        """Make the request that the model is asked next the point to go on from."""
        if self._earlier is None and self.run is not None:
            self._earlier = list(self.run.all_messages())
        # What the calls of the step before have given is in the request.
        for by_call in (self._outcomes, self._known, self._events, self.begun, self._answers):
            by_call.clear()
        self._shown.clear()
        self._shown_before.clear()
        self.lost.clear()
        if self.messages():  # else it stands at its beginning
            await self.save(request)

    async def save(self, request: m.ModelRequest | None = None, *, leave: bool = True) -> None:
        """Make this the point to go on from; `leave` as `RunContext.save` has it."""
        if self.run is not None and self._ctx.continues:
            await self._ctx.save(self._checkpoint(self.run, request), leave=leave and not self._executing)

    def _checkpoint(self, run: AgentRun[Any, Any], request: m.ModelRequest | None) -> bytes:
        ctx = run.ctx  # made anew each time
        state, messages = ctx.state, ctx.state.message_history
        earlier = [one for one in messages if one.run_id not in self._run_ids]
        if self._earlier is not None and (
            len(earlier) != len(self._earlier) or any(a is not b for a, b in zip(earlier, self._earlier, strict=True))
        ):
            self._whole = True
        kept = messages if self._whole else [one for one in messages if one.run_id in self._run_ids]
        encoded = [self._encoded(one) for one in kept]
        if request is not None:
            encoded.append(_dump(request))
        usage = copy.copy(state.usage)
        usage.tool_calls -= sum(outcome.kind in ("value", "return") for outcome in self._outcomes.values())
        return _encode(
            _Kept(
                framework=FRAMEWORK,
                run_ids=[*self._run_ids],
                whole=self._whole,
                reused=self._reused,
                messages=encoded,
                outcomes={**self._known, **self._outcomes},
                shown=[*self._shown, *self._shown_before],
                begun=self.begun,
                answers=[_Answer(kind, entry) for (kind, _), entry in self._answers.items()],
                # Without the calls of this step: those that are given what they returned count again.
                usage=_encode_json(usage),
                after_text=self.after_text,
                streaming=self.streaming,
                run_step=state.run_step - (request is None),
                output_retries=state.output_retries_used,
                retries=self._retries_next(ctx.deps.tool_manager, request is not None),
                state=None if self._state is None else self._state.state.model_dump_json().encode(),
            )
        )

    def _encoded(self, message: m.ModelMessage) -> bytes:
        known = self._bytes.get(id(message))
        if known is None:
            known = self._bytes[id(message)] = message, _dump(message)
        return known[1]

    def _retries_next(self, manager: ToolManager[Any], next_step: bool) -> dict[str, int]:
        if self._retries or manager.ctx is None:
            return self._retries
        counts = manager.ctx.retries
        if not next_step:
            return counts
        kept = {name: count for name, count in counts.items() if name not in manager.succeeded_tools}
        return kept | {name: counts.get(name, 0) + 1 for name in manager.failed_tools}

    def _load(self, checkpoint: bytes) -> None:
        run_id = self._ctx.run_id
        try:
            kept = _decode(checkpoint)
            if _major(kept.framework) != _major(FRAMEWORK):
                raise CheckpointUnreadable(
                    f"run {run_id}: was begun with {kept.framework}, and {FRAMEWORK} cannot go on with it; ask again",
                    run_id=run_id,
                )
            self._restored = _load(kept.messages)
            self.usage = _usage.validate_json(kept.usage)
        except (msgspec.MsgspecError, pydantic_core.ValidationError) as error:
            kind = type(error).__name__
            raise CheckpointUnreadable(
                f"run {run_id}: where its agent stands cannot be read by {FRAMEWORK} ({kind}); ask again", run_id=run_id
            ) from None
        self._run_ids = set(kept.run_ids)
        self._whole, self._reused = kept.whole, kept.reused
        self._known, self._shown_before = kept.outcomes, set(kept.shown)
        self.begun, self.lost = kept.begun, set(kept.begun) - set(kept.outcomes)
        self._answers = {(answer.kind, answer.entry.interrupt_id): answer.entry for answer in kept.answers}
        self.after_text, self.streaming = kept.after_text, kept.streaming
        self._kept_step = kept.run_step, kept.output_retries
        self._retries, self._kept_state = kept.retries, kept.state


def _instead(tool: tools.ToolDefinition) -> str | None:
    """Return what to do instead of making a call again when nobody knows whether it took effect."""
    repeatable = (tool.metadata or {}).get("repeatable", True)
    return None if repeatable is True else "ask" if repeatable == "ask" else "tell"


def _dump(message: m.ModelMessage) -> bytes:
    return dump([message])[1:-1]


def _load(messages: list[bytes]) -> list[m.ModelMessage]:
    return m.ModelMessagesTypeAdapter.validate_json(b"[" + b",".join(messages) + b"]")


def _major(framework: str) -> str:
    return framework.partition(".")[0]
