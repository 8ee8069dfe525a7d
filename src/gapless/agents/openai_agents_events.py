"""What an agent of the OpenAI Agents SDK streams, as events of a run.

Items are told by their response and position in it: the ids that the SDK makes for chat models are all the same.
"""

from __future__ import annotations

import mimetypes
from typing import Any

from agents import StreamEvent, Usage
from agents.items import HandoffOutputItem, ToolCallOutputItem
from openai.types import responses as r

from gapless.agents.base import AgentItem, RunContext
from gapless.agents.values import json_of, plain
from gapless.agents.writing import Said, WholeCall, file, result, with_files
from gapless.events import ContentPart, StepFinishedEvent, StepStartedEvent, TokenUsage

__all__ = ["Translation", "usage_of"]

FAILED = "An error occurred while running the tool."
"""How the SDK begins what it tells the model of a tool that raised, unless the tool says something else."""


class Translation:
    """Translates the stream of one run that begins with the agent `root`. Without `streams` an answer comes whole.
    Calls of `client_tools` are the client's to answer: nothing is said of what the SDK takes for their result."""

    def __init__(self, ctx: RunContext, root: str, *, streams: bool, client_tools: frozenset[str]) -> None:
        self.responses = 0
        """Answers of the model that are complete."""
        self.outstanding: set[str] = set()
        """Calls of the newest answer that have no result yet."""
        self.pending: list[str] = []
        """Calls of the client's tools."""
        self.denied: set[str] = set()
        """Calls to which a person said no."""
        self.finish_reason: str | None = None
        self._ctx = ctx
        self._root = self._agent = root
        self._streams = streams
        self._client_tools = client_tools
        self._said: Said | None = None
        self._half: list[str] = []
        """Ids of what the answer under way has said."""

    def items(self, event: StreamEvent) -> list[AgentItem]:
        """Return what one event of the stream says."""
        if event.type == "raw_response_event":
            return self.said(event.data)
        if event.type == "agent_updated_stream_event":
            return self._agent_is(event.new_agent.name)
        if isinstance(event.item, ToolCallOutputItem | HandoffOutputItem):
            return self._output(event.item)
        return []

    def close(self) -> list[AgentItem]:
        """Return what ends the step that is under way."""
        return self._agent_is(self._root)

    def half(self) -> list[str]:
        """Return the ids of what is said of an answer that would be asked for again."""
        return list(self._half)

    # -- the model --------------------------------------------------------------------------------------------------

    def said(self, data: Any) -> list[AgentItem]:
        """Return what one event of the model says."""
        kind = getattr(data, "type", "")
        if kind == "response.output_text.delta" or kind == "response.refusal.delta":
            if not self._streams:
                return []
            return self._message().text(data.delta)  # type: ignore[return-value]  # a list of events is one of items
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            return self._complete(data.response)
        out: list[AgentItem] = []
        if not self._streams:
            return out
        said = self._message()
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            out += said.reasoning(data.delta)
        elif kind == "response.reasoning_summary_part.added":
            out += said.reasoning("", part=True)
        elif kind == "response.function_call_arguments.delta":
            out += said.call(data.output_index, arguments=data.delta)
        elif kind == "response.output_item.added":
            item = data.item
            if isinstance(item, r.ResponseFunctionToolCall):
                self._half.append(item.call_id)
                out += said.call(data.output_index, item.call_id, item.name, item.arguments)
            elif isinstance(item, r.ResponseOutputMessage) and said.spoken:  # a second message in one answer
                out += said.end()
                self._said = None
        return out

    def _message(self) -> Said:
        if self._said is None:
            self._said = Said(self._ctx.new_id("message"), self._ctx.new_id)
            self._half.append(self._said.id)
        return self._said

    def _complete(self, response: r.Response) -> list[AgentItem]:
        """Take an answer that is complete: say what of it was not streamed."""
        out: list[AgentItem] = []
        text, thoughts, calls = "", list[str](), list[WholeCall]()
        for item in response.output:
            if isinstance(item, r.ResponseOutputMessage):
                if text and not self._streams:  # in parts, only the last message is still open
                    out += self._message().whole(text, "\n".join(thoughts))
                    self._said, thoughts = None, []
                text = "".join(getattr(part, "text", "") or getattr(part, "refusal", "") for part in item.content)
            elif isinstance(item, r.ResponseReasoningItem):
                thoughts += [part.text for part in item.summary or item.content or ()]
            elif isinstance(item, r.ResponseFunctionToolCall):
                calls.append(WholeCall(item.call_id, item.name, item.arguments))
            else:
                out += self._hosted(item)
        out += self._message().whole(text, "\n".join(thoughts), calls)
        self._said = None
        self._half.clear()
        self.responses += 1
        self.outstanding = {call.id for call in calls}
        self.pending = [call.id for call in calls if call.name in self._client_tools]
        incomplete = response.incomplete_details.reason if response.incomplete_details is not None else None
        self.finish_reason = incomplete or ("tool_calls" if self.pending else "stop")
        if response.usage is not None:
            self._ctx.add_usage(usage_of(response.usage, response.model))
        return out

    def _hosted(self, item: Any) -> list[AgentItem]:
        """Say of a tool that the provider calls itself that it was called."""
        kind, id = getattr(item, "type", ""), getattr(item, "id", None)
        if not kind.endswith("_call") or not id:
            return []
        arguments = getattr(item, "arguments", None)
        if not isinstance(arguments, str):
            told = {key: plain(getattr(item, key, None)) for key in ("action", "queries", "code")}
            arguments = json_of({key: value for key, value in told.items() if value is not None})
        name = getattr(item, "name", None) or kind.removesuffix("_call")
        found: list[AgentItem] = [*self._message().call(id, id, name, arguments)]
        output, error = getattr(item, "output", None), getattr(item, "error", None)
        if isinstance(picture := getattr(item, "result", None), str):
            found.append(file(f"image/{getattr(item, 'output_format', None) or 'png'}", picture))
        text = output if isinstance(output, str) else json_of({"status": getattr(item, "status", None)})
        text, error = (output or str(error), str(error)) if error else (text, None)
        found.append(result(self._ctx.new_id("tool"), id, text, error=error))
        return found

    # -- tools and agents -------------------------------------------------------------------------------------------

    def _output(self, item: ToolCallOutputItem | HandoffOutputItem) -> list[AgentItem]:
        raw: Any = item.raw_item
        call_id = raw.get("call_id") if isinstance(raw, dict) else getattr(raw, "call_id", None)
        if not isinstance(call_id, str) or call_id in self.pending:
            return []
        self.outstanding.discard(call_id)
        told = raw.get("output") if isinstance(raw, dict) else None
        if isinstance(told, list) and (parts := _parts(told)) is not None:
            return [result(self._ctx.new_id("tool"), call_id, parts)]
        value = plain(item.output if isinstance(item, ToolCallOutputItem) else told)
        text = value if isinstance(value, str) else json_of(value)
        error = text if call_id in self.denied or text.startswith(FAILED) else None
        return [result(self._ctx.new_id("tool"), call_id, text, error=error)]

    def _agent_is(self, name: str) -> list[AgentItem]:
        found: list[AgentItem] = []
        if name != self._agent:
            if self._agent != self._root:
                found.append(StepFinishedEvent(step_name=self._agent))
            if name != self._root:
                found.append(StepStartedEvent(step_name=name))
            self._agent = name
        return found


def _parts(told: list[Any]) -> str | list[ContentPart] | None:
    """Return what a tool has returned as the SDK tells it to the model, in parts; None where they are no such parts."""
    texts: list[str] = []
    files: list[tuple[str | None, str | None, str | None]] = []
    for part in told:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "input_text":
            texts.append(part.get("text") or "")
        elif kind == "input_image" and part.get("image_url"):
            files.append(("image/png", None, part["image_url"]))
        elif kind == "input_file" and (data := part.get("file_data")):
            mime_type, _ = mimetypes.guess_type(part.get("filename") or "")
            files.append((mime_type, None, data) if data.startswith("data:") else (mime_type, data, None))
        elif kind == "input_file" and part.get("file_url"):
            files.append((None, None, part["file_url"]))
        else:  # kept at the provider
            return None
    return with_files("\n".join(texts), files)


def usage_of(usage: r.ResponseUsage | Usage, model: str | None = None) -> TokenUsage:
    """Return what was used by one answer of the `model`, or by all of a run, as the SDK counts it."""
    inputs: Any = usage.input_tokens_details
    outputs: Any = usage.output_tokens_details
    return TokenUsage(
        model=model or None,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        reasoning_tokens=getattr(outputs, "reasoning_tokens", None) or None,
        cached_input_tokens=getattr(inputs, "cached_tokens", None) or None,
        cache_write_input_tokens=getattr(inputs, "cache_write_tokens", None) or None,
    )
