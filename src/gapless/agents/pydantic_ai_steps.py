"""What is added to each run of a Pydantic AI agent around its steps: the model's deltas are taken where they come, and
a tool call that has been made is not made again.

On their way through the agent's graph the deltas would cost three times as much as the model itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol

from pydantic_ai import messages as m
from pydantic_ai import tools
from pydantic_ai.agent import AgentRun
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.models import Model, ModelRequestContext, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from gapless.agents.pydantic_ai_history import told_to
from gapless.agents.pydantic_ai_ledger import Ledger
from gapless.agents.pydantic_ai_settings import ToolChoice

__all__ = ["Steps", "emitted_in", "watched_by"]


def watched_by(run: AgentRun[Any, Any]) -> str:
    """Return what in the graph wants to see each delta: capabilities that change or hear the stream, or a limit that is
    held against it. "" where nothing does.
    """
    deps = run.ctx.deps
    if deps.usage_limits.has_token_limits():
        return "limits on tokens"
    watching: list[str] = []
    outside = True

    def look(one: AbstractCapability[Any]) -> None:
        nonlocal outside
        outside = outside and not isinstance(one, Steps)
        wraps = outside and type(one).get_wrapper_model is not AbstractCapability.get_wrapper_model
        if wraps or one.has_wrap_run_event_stream or one.has_on_event:
            watching.append(type(one).__name__)

    root = deps.root_capability
    root.apply(look)  # in their order, the outermost first
    if not watching and (root.has_wrap_run_event_stream or root.has_on_event):
        watching.append(type(root).__name__)
    return f"capabilities ({', '.join(dict.fromkeys(watching))})" if watching else ""


def emitted_in(run: AgentRun[Any, Any]) -> Collection[Any] | None:
    """Return where the run keeps what its code has emitted and the graph has not told yet, which comes between the
    deltas. None where this version of the framework has no such place."""
    found: Collection[Any] | None = getattr(run.ctx.state, "event_stream_buffer", None)
    return found


class Hearer(Protocol):
    """Hears the deltas of the model's answers, while `taking` says so and the graph has nothing of its own to tell:
    what was `emitted`."""

    taking: bool
    emitted: Collection[Any]

    async def hear(self, event: m.PartDeltaEvent) -> None:
        """Take a delta while the graph waits for the model's next event."""


class Steps(AbstractCapability[Any]):
    """Takes the deltas of the model's answers to `hearer`, and tool calls to `ledger`.

    Neither refers to this: no circle keeps the run."""

    def __init__(self, hearer: Hearer, ledger: Ledger, choice: ToolChoice | None = None) -> None:
        self._hearer = hearer
        self._ledger = ledger
        self._choice = choice

    def get_model_settings(self) -> Callable[[tools.RunContext[Any]], ModelSettings] | None:
        """Return the choice of tools, which is another one for each step."""
        return None if self._choice is None else self._choice.settings

    def get_ordering(self) -> CapabilityOrdering:
        """Return that others' wrappers are inside: what they make of the stream is what is taken."""
        return CapabilityOrdering(position="outermost")

    def get_wrapper_model(self, model: Model) -> Model | None:
        """Return `model` with its deltas taken."""
        if not self._hearer.taking or type(model).request_stream is Model.request_stream:
            return None
        return _HeardModel(model, self._hearer)

    async def prepare_model_request(
        self, ctx: tools.RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Tell a model of the calls before in its provider's form: they may be another's."""
        system = request_context.model.system
        providers = system.removeprefix("fallback:").split(",")
        request_context.messages = told_to(providers, request_context.messages)
        return request_context

    async def wrap_tool_execute(
        self,
        ctx: tools.RunContext[Any],
        *,
        call: m.ToolCallPart,
        tool_def: tools.ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        """Make a call, unless it has been made."""
        return await self._ledger.execute(ctx, call, tool_def, lambda: handler(args))


class _HeardModel(WrapperModel):
    def __init__(self, wrapped: Model, hearer: Hearer) -> None:
        super().__init__(wrapped)
        self._hearer = hearer

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[m.ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: tools.RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        wrapped = self.wrapped
        async with wrapped.request_stream(messages, model_settings, model_request_parameters, run_context) as stream:
            # A continued response's parts are numbered anew, and put right by the graph.
            yield stream if isinstance(messages[-1], m.ModelResponse) else _Heard(stream, self._hearer)


def _inner(name: str) -> Any:
    def get(self: _Heard) -> Any:
        return getattr(self.inner, name)

    def set(self: _Heard, value: Any) -> None:
        setattr(self.inner, name, value)

    return property(get, set)


class _Heard(StreamedResponse):
    """Is `inner` to the graph, but for its deltas, which go to `hearer` as they come."""

    def __init__(self, inner: StreamedResponse, hearer: Hearer) -> None:
        self.inner = inner  # not `super().__init__`: all that it would set is the inner one's
        self._hearer = hearer

    model_request_parameters = _inner("model_request_parameters")
    final_result_event = _inner("final_result_event")
    provider_response_id = _inner("provider_response_id")
    provider_details = _inner("provider_details")
    canonical_system = _inner("canonical_system")
    finish_reason = _inner("finish_reason")
    state = _inner("state")
    metadata = _inner("metadata")
    failed_attempts = _inner("failed_attempts")

    def __aiter__(self) -> AsyncIterator[m.ModelResponseStreamEvent]:
        if self._event_iterator is None:
            self._event_iterator = self._get_event_iterator()
        return self._event_iterator

    async def _get_event_iterator(self) -> AsyncGenerator[m.ModelResponseStreamEvent, None]:
        hear, emitted = self._hearer.hear, self._hearer.emitted
        async for event in self.inner:
            if type(event) is m.PartDeltaEvent and not emitted:
                await hear(event)
            else:  # the graph tells what was emitted after the event at hand
                yield event

    def get(self) -> m.ModelResponse:
        return self.inner.get()

    def get_stream_cancel_errors(self) -> tuple[type[BaseException], ...]:
        return self.inner.get_stream_cancel_errors()

    async def cancel(self) -> None:
        await self.inner.cancel()

    async def close_stream(self) -> None:
        await self.inner.close_stream()

    def time_to_first_chunk(self, request_start: float) -> float | None:
        return self.inner.time_to_first_chunk(request_start)

    @property
    def cancelled(self) -> bool:
        return self.inner.cancelled

    @property
    def usage(self) -> RequestUsage:
        return self.inner.usage

    @property
    def model_name(self) -> str:
        return self.inner.model_name

    @property
    def provider_name(self) -> str | None:
        return self.inner.provider_name

    @property
    def provider_url(self) -> str | None:
        return self.inner.provider_url

    @property
    def timestamp(self) -> datetime:
        return self.inner.timestamp
