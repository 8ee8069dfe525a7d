"""What Claude Code streams, as events of a run.

Of the agent that was asked, each piece comes as the model says it; of the agents that it asks in turn, each block when
it is complete. Results of tools, and how work in the background goes, come between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    Message,
    ResultMessage,
    ServerToolResultBlock,
    ServerToolUseBlock,
    StreamEvent,
    SystemMessage,
    TaskNotificationMessage,
    TaskStartedMessage,
    TaskUpdatedMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from gapless.agents import counting
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.values import json_of
from gapless.agents.writing import Said, result, with_files
from gapless.events import (
    ContentPart,
    CustomEvent,
    SubagentErrorEvent,
    SubagentFinishedEvent,
    SubagentStartedEvent,
    TokenUsage,
    ToolCallEndEvent,
)
from gapless.output import OUTPUT_EVENT

__all__ = ["Translation", "is_idle", "rest_of"]

OUTPUT_TOOL = "StructuredOutput"
"""The tool by which the CLI takes a typed output."""
SYNTHETIC = "<synthetic>"
"""Who says what the CLI itself has to say: that the model failed."""
ENDED = {"completed": None, "failed": "failed", "stopped": "was stopped", "killed": "was stopped"}


class Translation:
    """Translates the messages of one run. Without `streams` an answer comes whole. `shown` gives the name under which a
    tool is shown."""

    def __init__(self, ctx: RunContext, *, streams: bool, shown: Callable[[str], str]) -> None:
        self.complete: dict[str, list[str]] = {}
        """The answers that were heard to their end, with the ids of their calls."""
        self.fresh: list[str] = []
        """Those that nobody has looked at."""
        self.outstanding: set[str] = set()
        """Calls that have no result yet."""
        self.left: set[str] = set()
        """Calls whose results are none: they are put off."""
        self.denied: set[str] = set()
        """Calls to which a person said no."""
        self.answer_of: dict[str, str] = {}
        """By call, the id of the answer that it is of."""
        self.returned: set[str] = set()
        """Calls that have a result."""
        self.called: dict[str, tuple[str, Any]] = {}
        """Calls of complete answers: the tool's name and the arguments."""
        self.finish_reason: str | None = None
        self.backgrounded = False
        """An agent was asked that works beside this one."""
        self.failed: str | None = None
        """What the CLI has called the model's failure."""
        self._ctx = ctx
        self._streams = streams
        self._shown = shown
        self._said: dict[tuple[str | None, str], Said] = {}
        """By the call that asked for the agent, and the id of its answer."""
        self._current = ""
        self._blocks: dict[int, tuple[str, str]] = {}
        """Of the answer under way: what each block is, and the id of a call."""
        self._thoughts = 0
        self._usage: dict[str, Any] = {}
        self._model: str | None = None
        self._outputs: set[str] = set()
        self._agents: dict[str, str] = {}
        """Agents at work: the call that asked for each, and its task."""
        self._authors: dict[str, str] = {}
        """Who made each call, where it was one of these agents."""

    def items(self, message: Message) -> list[AgentItem]:
        """Return what one message says."""
        if isinstance(message, StreamEvent):
            return self._streamed(message.event) if message.parent_tool_use_id is None else []
        if isinstance(message, AssistantMessage):
            return self._answered(message)
        if isinstance(message, UserMessage):
            return self._returned(message)
        if isinstance(message, TaskStartedMessage):
            return self._began(message)
        if isinstance(message, TaskNotificationMessage | TaskUpdatedMessage):
            return self._ended(message.task_id, message.status or "")
        return []

    def half(self, answers: Collection[str], calls: Collection[str]) -> list[str]:
        """Return the ids of what was said beside these answers and calls: it would be asked for again."""
        found = [said.id for (_, id), said in self._said.items() if id not in answers]
        return found + [call for said in self._said.values() for call in said.call_ids if call not in calls]

    @property
    def speaking(self) -> bool:
        """Returns whether an answer of the model is under way."""
        return bool(self._current)

    # -- the model --------------------------------------------------------------------------------------------------

    def _streamed(self, event: dict[str, Any]) -> list[AgentItem]:
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(event["index"], event["delta"]) if self._streams else []
        if kind == "message_start":
            message = event["message"]
            self._current, self._model = str(message.get("id")), message.get("model")
            self._usage, self._thoughts = dict(message.get("usage") or {}), 0
            self._blocks.clear()
            self._of(None, self._current)
        elif kind == "content_block_start":
            return self._block(event["index"], event["content_block"])
        elif kind == "content_block_stop":
            _, id = self._blocks.get(event["index"], ("", ""))
            return [ToolCallEndEvent(tool_call_id=id)] if id and self._streams else []
        elif kind == "message_delta":
            self.finish_reason = (event.get("delta") or {}).get("stop_reason") or self.finish_reason
            self._usage |= {key: value for key, value in (event.get("usage") or {}).items() if value is not None}
        elif kind == "message_stop" and self._current:
            self.complete[self._current] = [id for of, id in self._blocks.values() if of == "tool_use"]
            self.fresh.append(self._current)
            self._ctx.add_usage(usage_of(self._usage, self._model))
            id, self._current = self._current, ""
            return [*self._of(None, id).end()]
        return []

    def _block(self, index: int, block: dict[str, Any]) -> list[AgentItem]:
        kind, said = block.get("type"), self._of(None, self._current)
        if kind in ("tool_use", "server_tool_use"):
            self._blocks[index] = (kind, block["id"])
            self.answer_of[block["id"]] = self._current
            return self._call(said, block["id"], block["name"]) if self._streams else self._outstanding(block["id"])
        self._blocks[index] = (str(kind), "")
        if kind == "thinking":
            self._thoughts += 1
            return [*said.reasoning("", part=self._thoughts > 1)] if self._streams else []
        if kind == "redacted_thinking" and self._streams:
            return [*said.signature(block.get("data") or "")]
        return []

    def _delta(self, index: int, delta: dict[str, Any]) -> list[AgentItem]:
        said, kind = self._of(None, self._current), delta.get("type")
        if kind == "text_delta":
            return said.text(delta["text"])  # type: ignore[return-value]  # a list of events is one of items
        if kind == "input_json_delta":
            id = self._blocks.get(index, ("", ""))[1]
            return [*said.call(id, arguments=delta["partial_json"])] if id else []
        if kind == "thinking_delta":
            return [*said.reasoning(delta["thinking"])]
        if kind == "signature_delta" and delta.get("signature"):
            return [*said.signature(delta["signature"])]
        return []

    def _answered(self, message: AssistantMessage) -> list[AgentItem]:
        """Take a block that is complete, and say it where it was not streamed."""
        if message.error is not None:
            self.failed = message.error
        if message.model == SYNTHETIC:
            return []
        asked_by, id = message.parent_tool_use_id, message.message_id or message.uuid or ""
        was_streamed = asked_by is None and self._streams and (id == self._current or id in self.complete)
        out: list[AgentItem] = [] if asked_by is None else self._begin(asked_by)
        said = self._of(asked_by, id)
        for block in message.content:
            if isinstance(block, ToolUseBlock | ServerToolUseBlock):
                self.called[block.id] = (block.name, block.input)
                self.answer_of[block.id] = id
                if asked_by is not None:
                    self._authors[block.id] = asked_by
                if not was_streamed:
                    out += self._call(said, block.id, block.name, json_of(block.input))
                    out.append(ToolCallEndEvent(tool_call_id=block.id, subagent_run_id=asked_by))
            elif isinstance(block, ServerToolResultBlock):
                out += self._result(block.tool_use_id, json_of(block.content), None, asked_by)
            elif was_streamed:
                continue
            elif isinstance(block, ThinkingBlock):
                out += said.reasoning(block.thinking, part=True)
                out += said.signature(block.signature) if block.signature else []
            elif isinstance(block, TextBlock):
                out += said.text(block.text)
        if asked_by is not None or (not was_streamed and id != self._current):
            out += said.end()
            if asked_by is None:  # in one piece, block by block
                calls = self.complete.setdefault(id, [])
                calls += [block.id for block in message.content if isinstance(block, ToolUseBlock)]
                self.fresh.append(id)
        return out

    def _of(self, asked_by: str | None, id: str) -> Said:
        key = (asked_by, id)
        if key not in self._said:
            self._said[key] = Said(self._ctx.new_id("message"), self._ctx.new_id, author=asked_by)
        return self._said[key]

    def _call(self, said: Said, id: str, name: str, arguments: str = "") -> list[AgentItem]:
        out: list[AgentItem] = []
        if name == OUTPUT_TOOL:
            self._outputs.add(id)
            out.append(CustomEvent(name=OUTPUT_EVENT, value={"toolCallId": id}))
        self._outstanding(id)
        return [*out, *said.call(id, id, self._shown(name), arguments)]

    def _outstanding(self, id: str) -> list[AgentItem]:
        self.outstanding.add(id)
        return []

    # -- tools and agents -------------------------------------------------------------------------------------------

    def _returned(self, message: UserMessage) -> list[AgentItem]:
        out: list[AgentItem] = []
        for block in message.content if isinstance(message.content, list) else ():
            if isinstance(block, ToolResultBlock):
                told = _told(block.content)
                text = told if isinstance(told, str) else json_of(block.content)
                error = text or "failed" if block.is_error or block.tool_use_id in self.denied else None
                out += self._result(block.tool_use_id, told, error, message.parent_tool_use_id)
                if block.tool_use_id in self._agents and not self._agents[block.tool_use_id]:
                    out += self._end(block.tool_use_id, error)
        return out

    def _result(self, id: str, told: str | list[ContentPart], error: str | None, author: str | None) -> list[AgentItem]:
        self.outstanding.discard(id)
        if author is None:
            self.returned.add(id)
        if id in self._outputs or id in self.left:
            return []
        return [result(self._ctx.new_id("tool"), id, told, error=error, author=author)]

    def _began(self, message: TaskStartedMessage) -> list[AgentItem]:
        if message.task_type != "local_agent" or not message.tool_use_id:
            return []
        is_beside = bool(message.data.get("is_backgrounded"))
        self.backgrounded = self.backgrounded or is_beside
        name = message.data.get("subagent_type")
        return self._begin(
            message.tool_use_id,
            name if isinstance(name, str) else None,
            message.description,
            message.task_id if is_beside else "",
        )

    def _begin(
        self, id: str, name: str | None = None, description: str | None = None, task: str = ""
    ) -> list[AgentItem]:
        """Begin the work of the agent that the call `id` asked for."""
        if id in self._agents:
            return []
        self._agents[id] = task
        _, given = self.called.get(id, ("", {}))
        given = given if isinstance(given, dict) else {}
        return [
            SubagentStartedEvent(
                subagent_run_id=id,
                name=name or str(given.get("subagent_type") or "agent"),
                description=description or given.get("description"),
                parent_subagent_run_id=self._authors.get(id),
                parent_tool_call_id=id,
            )
        ]

    def _ended(self, task: str, status: str) -> list[AgentItem]:
        found = next((id for id, of in self._agents.items() if task and of == task), None)
        return [] if found is None or status not in ENDED else self._end(found, ENDED[status])

    def _end(self, id: str, error: str | None) -> list[AgentItem]:
        del self._agents[id]
        if error is None:
            return [SubagentFinishedEvent(subagent_run_id=id)]
        return [SubagentErrorEvent(subagent_run_id=id, message="the agent failed", code="agent_failed")]

    def close(self) -> list[AgentItem]:
        """Return what ends the agents that are still at work."""
        return [item for id in [*self._agents] for item in self._end(id, None)]


def is_idle(message: Message) -> bool | None:
    """Return whether the CLI says that nothing more comes; None where it says nothing of that."""
    if isinstance(message, SystemMessage) and message.subtype == "session_state_changed":
        return bool(message.data.get("state") == "idle")
    return None


def usage_of(usage: dict[str, Any], model: str | None) -> TokenUsage:
    """Return the tokens of one answer. Of the input, the service counts apart what went through its cache."""
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    inputs = (usage.get("input_tokens") or 0) + cached + written
    outputs = usage.get("output_tokens") or 0
    return TokenUsage(
        model=model or None,
        input_tokens=inputs,
        output_tokens=outputs,
        total_tokens=inputs + outputs,
        cached_input_tokens=cached or None,
        cache_write_input_tokens=written or None,
    )


def rest_of(ended: ResultMessage, counted: Sequence[TokenUsage]) -> list[TokenUsage]:
    """Return the tokens of a session of the CLI that were not counted as they came: those of agents that were asked."""
    used = ended.model_usage or {}
    inputs = sum(
        one.get("inputTokens", 0) + one.get("cacheReadInputTokens", 0) + one.get("cacheCreationInputTokens", 0)
        for one in used.values()
    )
    others = {*used} - {one.model for one in counted}
    model = others.pop() if len(others) == 1 else next(iter(used), None) if len(used) == 1 else None
    outputs = sum(one.get("outputTokens", 0) for one in used.values())
    rest = counting.rest_of(TokenUsage(model=model, input_tokens=inputs, output_tokens=outputs), counted)
    return [] if rest is None else [rest]


def _told(content: str | list[dict[str, Any]] | None) -> str | list[ContentPart]:
    if content is None or isinstance(content, str):
        return content or ""
    texts = [str(part.get("text") or "") for part in content if part.get("type") == "text"]
    files: list[tuple[str | None, str | bytes | None, str | None]] = []
    for part in content:
        source = part.get("source")
        if isinstance(source, dict) and source.get("type") == "base64":
            files.append((source.get("media_type"), source.get("data"), None))
        elif isinstance(source, dict) and source.get("type") == "url":
            files.append((None, None, source.get("url")))
    return with_files("\n".join(texts), files)
