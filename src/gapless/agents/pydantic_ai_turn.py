"""One run of a Pydantic AI agent: the framework's events to ours, and what is kept of the run when it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from pydantic_ai import messages as m
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.usage import RunUsage

from gapless.agents.base import AgentItem, Deltas, RunContext
from gapless.agents.client_tools import left_to_client
from gapless.agents.counting import rest_of
from gapless.agents.pydantic_ai_calls import Calls
from gapless.agents.pydantic_ai_events import custom
from gapless.agents.pydantic_ai_history import content_of, turn_of
from gapless.agents.pydantic_ai_ledger import Ledger
from gapless.agents.pydantic_ai_sealed import sealed
from gapless.agents.pydantic_ai_settings import ToolChoice
from gapless.agents.values import plain
from gapless.agents.writing import Said, file, finish, notice, result, settings_ignored
from gapless.errors import StreamingUnavailable
from gapless.events import (
    CustomEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TokenUsage,
    ToolCallResultEvent,
)

__all__ = ["Turn"]


class Turn:
    """One run's translation: the framework's events to ours, and what is kept of the run when it ends."""

    def __init__(self, ctx: RunContext, ledger: Ledger) -> None:
        self.taking = False
        """The deltas of the response at hand come to `hear`, not through the graph."""
        self.emitted: Collection[Any] = ()
        """What the graph tells between them."""
        self.deltas: Deltas | None = None
        """How the deltas of the run's responses come; None before the first request that is streamed."""
        self.opening = False
        """A streamed model request was made and nothing has come of it yet."""
        self._ctx = ctx
        self._ledger = ledger
        self._calls = Calls()
        self._native_results: set[str] = set()
        self._file: tuple[int, m.FilePart] | None = None
        """A file that may be said again, better: a picture as it gets clear."""
        self._choice: ToolChoice | None = None
        self._ignored: list[str] = []
        self._said = Said("", ctx.new_id)
        """What is thought; text goes by it, as it is."""
        self._thinking: int | None = None
        """The part of the response that is a thought and has not ended."""
        self._running: dict[str, str] = {}
        """Tool calls that have no result yet, and their tools."""

    def settings(self, choice: ToolChoice | None, ignored: list[str]) -> None:
        """Note what of the run's settings may not be done."""
        self._choice, self._ignored = choice, [] if self._ledger.restored else ignored

    def notices(self) -> Iterable[AgentItem]:
        """Say what of the run's settings is not done."""
        if self._choice is not None and self._choice.ignored and not self._ledger.restored:
            self._ignored.append("tool_choice")
            self._choice = None
        if self._ignored:
            names, self._ignored = self._ignored, []
            yield settings_ignored(names)

    # -- what the framework says ------------------------------------------------------------------------------------

    def request(self) -> Iterable[AgentItem]:
        """Note that the model is asked (again)."""
        if not self._ledger.after_text:
            return ()
        self._ledger.after_text = False
        step = "model request"  # between two texts, so that they are two messages
        return StepStartedEvent(step_name=step), StepFinishedEvent(step_name=step)

    def event(self, event: m.AgentStreamEvent) -> Iterable[AgentItem]:
        """Anything but a text delta."""
        handle = _EVENTS.get(type(event))
        if handle is not None:
            return handle(self, event)
        if isinstance(event, m.CustomEvent) and event.ui:
            return (custom(event),)
        return ()

    def take(self, watched_by: str, emitted: Collection[Any] | None) -> None:
        """Take the next response's deltas at the model, unless something in the graph watches them: `watched_by`, as
        `emitted_in` returns what was `emitted`."""
        self.taking = not watched_by and emitted is not None and self._ctx.emits
        self.emitted = () if emitted is None else emitted
        if self.deltas is None or watched_by:
            self.deltas = Deltas(at_model=self.taking, watched_by=watched_by)

    async def hear(self, event: m.PartDeltaEvent) -> None:
        """Take a delta while the graph waits for the model's next event."""
        if type(delta := event.delta) is m.TextPartDelta:
            if delta.content_delta:
                await self._ctx.emit(delta.content_delta)
            return
        for item in self._part_delta(event):
            await self._ctx.emit(item)

    def response(self, response: m.ModelResponse) -> Iterable[AgentItem]:
        """Take a response that is complete, and so are its tool calls; they run next."""
        yield from self._end_file()
        yield from self._calls.end(response)
        self._native_results.clear()
        self._thinking = None

    def mend(self, response: m.ModelResponse) -> None:
        """Let the framework have the response as it was said."""
        self._calls.mend(response)

    def whole_response(self, response: m.ModelResponse) -> Iterable[AgentItem]:
        """Take a response that came in one piece."""
        for index, part in enumerate(response.parts):
            yield from self._part_start(m.PartStartEvent(index=index, part=part))
            yield from self._part_end(m.PartEndEvent(index=index, part=part))
        yield from self.response(response)

    def _part_start(self, event: m.PartStartEvent) -> Iterable[AgentItem]:
        part = event.part
        if self._file is not None and not (isinstance(part, m.FilePart) and self._file[0] == event.index):
            yield from self._end_file()
        if isinstance(part, m.TextPart | m.SpeechPart):
            self._ledger.after_text = True
            if part.content:
                yield part.content
        elif isinstance(part, m.ThinkingPart):
            self._thinking = event.index
            yield from self._said.reasoning(part.content, part=True)
        elif isinstance(part, m.BaseToolCallPart):
            self._ledger.after_text = False
            yield from self._calls.start(event.index, part)
        elif isinstance(part, m.NativeToolReturnPart):
            yield from self._calls.end_native(part)
            if part.tool_call_id not in self._native_results:
                self._native_results.add(part.tool_call_id)
                yield self._result(part)
        elif isinstance(part, m.FilePart):
            self._file = event.index, part

    def _end_file(self) -> Iterable[AgentItem]:
        if self._file is not None:
            (_, part), self._file = self._file, None
            yield file(part.content.media_type, part.content.data)

    def _part_delta(self, event: m.PartDeltaEvent) -> Iterable[AgentItem]:
        delta = event.delta
        if isinstance(delta, m.ThinkingPartDelta):
            if event.index == self._thinking and delta.content_delta:
                yield from self._said.reasoning(delta.content_delta)
        elif isinstance(delta, m.ToolCallPartDelta):
            yield from self._calls.delta(event.index, delta)

    def _part_end(self, event: m.PartEndEvent) -> Iterable[AgentItem]:
        part = event.part
        if isinstance(part, m.ToolCallPart):
            yield from self._calls.whole(event.index)
        elif isinstance(part, m.ThinkingPart) and event.index == self._thinking:
            self._thinking = None
            kept = sealed(part)
            yield from self._said.end_reasoning() if kept is None else self._said.signature(kept)

    def _final(self, event: m.FinalResultEvent) -> Iterable[AgentItem]:
        """Note that the output has begun, as a call of an output tool: say which, so that it can be read as it
        grows.
        """
        if event.tool_call_id is None or event.tool_name is None or self._ledger.run is None:
            return
        yield from self._calls.begin(event.tool_call_id)
        tool = self._ledger.run.ctx.deps.tool_manager.get_tool_def(event.tool_name)
        value = {"toolCallId": event.tool_call_id}
        if tool is not None and tool.outer_typed_dict_key is not None:
            value["key"] = tool.outer_typed_dict_key
        yield CustomEvent(name="gapless.output", value=value)

    def _tool_called(self, event: m.FunctionToolCallEvent) -> Iterable[AgentItem]:
        self._running[event.tool_call_id] = event.part.tool_name
        return ()

    def _tool_returned(self, event: m.FunctionToolResultEvent | m.OutputToolResultEvent) -> Iterable[AgentItem]:
        self._running.pop(event.tool_call_id, None)
        carried = self._ledger.show(event.part)
        return () if carried is None else (self._result(event.part), *carried)

    def _result(self, part: m.BaseToolReturnPart[Any]) -> ToolCallResultEvent:
        error = part.model_response_str(wrap_if_error=False) if part.outcome in m.ERROR_OUTCOMES else None
        return result(self._ctx.new_id("tool"), part.tool_call_id, content_of(part), error=error)

    @property
    def running(self) -> Collection[str]:
        """Returns the tools that run."""
        return self._running.values()

    # -- the end ----------------------------------------------------------------------------------------------------

    def go_blocking(self) -> CustomEvent:
        """Ask the model for whole answers from now on, and say so. Raises `StreamingUnavailable` where `fallback` is
        off."""
        self._ledger.streaming = self.opening = False
        model = self._ledger.run.ctx.deps.model.model_name if self._ledger.run is not None else "of the agent"
        if not self._ctx.config.fallback:
            raise StreamingUnavailable(
                f"the model {model} cannot stream; set streaming_mode to NONE or fallback to true to run it blocking",
                run_id=self._ctx.run_id,
            )
        message = f"the model {model} cannot stream: its answers come in one piece"
        return notice("streaming_unavailable", message)

    def finish(self, ended: AgentRunResult[Any]) -> Iterable[AgentItem]:
        """Take the output, which is the run's result unless it is the text that was streamed anyway."""
        responses = [message for message in self._ledger.messages() if isinstance(message, m.ModelResponse)]
        output = ended.output
        reason = responses[-1].finish_reason if responses else None
        yield from finish(reason)
        if isinstance(output, DeferredToolRequests):
            yield left_to_client(self._ctx, [call.tool_call_id for call in output.calls])
            return
        texts = (part.content for one in responses for part in one.parts if isinstance(part, m.TextPart))
        if not (isinstance(output, str) and output == "".join(texts)):
            self._ctx.result = plain(output)

    def save(self) -> None:
        """Keep the turn for the next run, and count its model calls; also of a run that was cut short. The framework's
        run refers to this, and is let go."""
        messages = self._ledger.messages()
        run, self._ledger.run = self._ledger.run, None
        self._ctx.native = turn_of(self._ctx.run_id, messages)
        for message in messages:
            if isinstance(message, m.ModelResponse) and message.usage.has_values():
                self._ctx.add_usage(_usage(message))
        if run is not None and (others := rest_of(_all_of(run.usage), self._ctx.usage)) is not None:
            self._ctx.add_usage(others)


_EVENTS: dict[type, Callable[[Turn, Any], Iterable[AgentItem]]] = {
    m.PartStartEvent: Turn._part_start,
    m.PartDeltaEvent: Turn._part_delta,
    m.PartEndEvent: Turn._part_end,
    m.FinalResultEvent: Turn._final,
    m.FunctionToolCallEvent: Turn._tool_called,
    m.FunctionToolResultEvent: Turn._tool_returned,
    m.OutputToolResultEvent: Turn._tool_returned,
}


def _usage(response: m.ModelResponse) -> TokenUsage:
    usage = response.usage
    return TokenUsage(
        provider=response.provider_name,
        model=response.model_name,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        reasoning_tokens=usage.output_reasoning_tokens or None,
        cached_input_tokens=usage.cache_read_tokens or None,
        cache_write_input_tokens=usage.cache_write_tokens or None,
    )


def _all_of(total: RunUsage) -> TokenUsage:
    return TokenUsage(
        input_tokens=total.input_tokens,
        output_tokens=total.output_tokens,
        cached_input_tokens=total.cache_read_tokens,
        cache_write_input_tokens=total.cache_write_tokens,
    )
