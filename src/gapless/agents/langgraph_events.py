"""What a LangGraph graph streams, as events of a run.

The stream is that of `astream(version="v2")` with the modes messages, updates, custom and tasks. A message is told by
its id, a call by its message and index, so that those of parallel branches may come mixed. What is in an update and was
not streamed (a node's own message, one of a task that another worker had done) is said whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any, TypeAlias

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import add_usage

from gapless.agents.base import AgentItem, RunContext
from gapless.agents.langgraph_messages import files_of, says, usage_of, whole_of
from gapless.agents.places import class_of
from gapless.agents.values import json_of, plain
from gapless.agents.writing import Said, result, with_files
from gapless.events import (
    CustomEvent,
    EventBase,
    SubagentErrorEvent,
    SubagentFinishedEvent,
    SubagentFinishedSuspendedOutcome,
    SubagentStartedEvent,
    TextMessageContentEvent,
)

__all__ = ["Translation"]

Namespace: TypeAlias = tuple[str, ...]
Items: TypeAlias = list[AgentItem]

CUSTOM = "langgraph.custom"
"""Name of the CUSTOM event of what a node's stream writer writes."""


class Translation:
    """Translates the stream of one run of the graph `name`. `streams` says whether messages come in parts: their tokens
    are counted there."""

    def __init__(self, ctx: RunContext, name: str, *, streams: bool) -> None:
        self.failed: set[str] = set()
        """Tools of the task that failed."""
        self.finish_reason: object = None
        """Of the newest message that is the graph's own."""
        self._ctx = ctx
        self._name = name
        self._streams = streams
        self.shown: dict[str, None] = {}
        """Ids of the messages that have been said whole."""
        self.known: set[str] = set()
        """Ids of the messages before this run."""
        self._said: dict[str, Said] = {}
        """Messages that are being said."""
        self._half: dict[str, Namespace] = {}
        """Ids of what tasks have said that are not done, with the path of the task."""
        self._texts: dict[str, set[str]] = {}
        """Texts that were streamed, by task: a node may return what its model said as a message of its own."""
        self._usage: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._subagents: dict[Namespace, str] = {}
        self._tools: dict[str, list[tuple[str, str]]] = {}
        """Calls (id, name) that a task makes, by the task's id."""

    def half(self) -> list[str]:
        """Return the ids of what is said by tasks that would be done again."""
        return [*self._half]

    def delta(self, part: Mapping[str, Any]) -> TextMessageContentEvent | None:
        """Return what a part of the stream says if it is nothing but the next piece of a text, as most are; None for
        any other, of which nothing is said yet."""
        if part["type"] != "messages" or type(message := part["data"][0]) is not AIMessageChunk:
            return None
        fields = vars(message)  # Pydantic would look for each of them in the class first
        said, text = self._said.get(fields["id"]), fields["content"]
        if (
            said is None
            or type(text) is not str
            or not text
            or fields["chunk_position"] is not None
            or fields["tool_call_chunks"]
            or fields["usage_metadata"]
            or fields["additional_kwargs"]
        ):
            return None
        return said.delta(text)

    def items(self, part: Mapping[str, Any]) -> Items:
        """Return what one part of the stream says."""
        kind, ns, data = part["type"], part["ns"], part["data"]
        if kind == "messages":
            return self._message(ns, *data)
        out: Items = []
        if kind == "updates":
            self._updates(out, ns, data)
        elif kind == "custom":
            author = self._author(out, ns, {}) if ns else None
            if isinstance(data, EventBase):
                out.append(data)  # type: ignore[arg-type]  # every event struct is in the union
            else:
                out.append(CustomEvent(name=CUSTOM, value=plain(data), subagent_run_id=author))
        elif kind == "tasks":
            self._task(out, ns, data)
        return out

    # -- messages ---------------------------------------------------------------------------------------------------

    def _message(self, ns: Namespace, message: BaseMessage, meta: Mapping[str, Any]) -> Items:
        if type(message) is AIMessageChunk:
            return self._chunk(ns, message, meta)
        out: Items = []
        if isinstance(message, AIMessage):
            if self._streams and message.usage_metadata and message.id not in self.shown:
                self._ctx.add_usage(usage_of(message.usage_metadata, message.response_metadata))
            self._whole(out, ns, message, meta)
        elif isinstance(message, ToolMessage):
            self._result(out, ns, message, meta)
        return out

    def _chunk(self, ns: Namespace, message: AIMessageChunk, meta: Mapping[str, Any]) -> Items:
        out: Items = []
        said = self._begin(out, ns, message, meta)
        if said is None:
            return out
        if isinstance(content := message.content, str):
            out += said.text(content) if content else []
        else:
            for kind, value in says(content):
                if kind == "text":
                    out += said.text(value) if value else []
                elif kind == "signature":
                    out += said.signature(value)
                else:
                    out += said.reasoning(value, part=kind == "part")
            for file in files_of(content):
                out += said.file(*file)
        out += self._beside(said, message)
        if message.chunk_position == "last":
            out += said.end()
            self._end(said, meta)
        return out

    def _beside(self, said: Said, message: AIMessageChunk) -> Items:
        """Return what a chunk says beside its content."""
        out: Items = []
        if thought := message.additional_kwargs.get("reasoning_content"):  # OpenAI-compatible services that think
            out += said.reasoning(thought)
        for call in message.tool_call_chunks:
            key = call["id"] if call["index"] is None else call["index"]
            if call["id"]:
                self._half.setdefault(call["id"], self._half.get(said.id, ()))
            out += said.call(key, call["id"], call["name"], call["args"] or "")
        if message.usage_metadata:
            usage, metadata = self._usage.get(said.id, (None, {}))
            self._usage[said.id] = add_usage(usage, message.usage_metadata), {**metadata, **message.response_metadata}
        if said.author is None and (reason := _finish_reason(message)):
            self.finish_reason = reason
        return out

    def _begin(self, out: Items, ns: Namespace, message: BaseMessage, meta: Mapping[str, Any]) -> Said | None:
        """Return what is being said of a message; None for one that has been said."""
        id = message.id or ""
        if id in self.shown or id in self.known:
            return None
        said = self._said.get(id)
        if said is None:
            author = self._author(out, ns, meta) if ns else None
            said = self._said[id] = Said(id, self._ctx.new_id, author)
            self._half[id] = _path(ns, meta)
        return said

    def _end(self, said: Said, meta: Mapping[str, Any]) -> None:
        """Note that a message has been said."""
        if self._said.pop(said.id, None) is not None and (text := said.spoken):
            self._texts.setdefault(meta.get("langgraph_checkpoint_ns") or "", set()).add(text)
        self.shown[said.id] = None
        if (known := self._usage.pop(said.id, None)) is not None:
            self._ctx.add_usage(usage_of(*known))

    def _whole(self, out: Items, ns: Namespace, message: AIMessage, meta: Mapping[str, Any]) -> None:
        """Say what of a complete message was not streamed."""
        text, thought, calls = whole_of(message)
        said = self._said.get(message.id or "")
        if said is None and not calls and text in self._texts.get(meta.get("langgraph_checkpoint_ns") or "", ()):
            self.shown[message.id or ""] = None
            return
        said = self._begin(out, ns, message, meta)
        if said is None:
            return
        path = self._half.get(said.id, ())
        for call in calls:
            self._half.setdefault(call.id, path)
        out += said.whole(text, thought, calls, [*files_of(message.content)])
        if said.author is None and (reason := _finish_reason(message)):
            self.finish_reason = reason
        self._end(said, meta)

    def _result(self, out: Items, ns: Namespace, message: ToolMessage, meta: Mapping[str, Any]) -> None:
        id = message.id or f"{message.tool_call_id}-result"
        if id in self.shown or id in self.known:
            return
        self.shown[id] = None
        author = self._author(out, ns, meta) if ns else None
        self._half[id] = _path(ns, meta)
        content = message.content
        files = [*files_of(content)]
        text = content if isinstance(content, str) else _text_of_blocks(content, files)
        error = text if message.status == "error" else None
        out.append(result(id, message.tool_call_id, with_files(text, files), error=error, author=author))

    def catch_up(self, messages: Iterable[BaseMessage]) -> Items:
        """Say what the graph has of its turn that was not recorded before its worker was lost."""
        out: Items = []
        self._messages(out, (), messages)
        self._half.clear()
        return out

    def _messages(self, out: Items, ns: Namespace, messages: Iterable[Any]) -> None:
        for message in messages:
            if isinstance(message, AIMessage):
                self._whole(out, ns, message, {})
            elif isinstance(message, ToolMessage):
                self._result(out, ns, message, {})

    # -- updates and tasks ------------------------------------------------------------------------------------------

    def _updates(self, out: Items, ns: Namespace, updates: Any) -> None:
        for node, update in updates.items() if isinstance(updates, dict) else ():
            if node == "__interrupt__":
                continue
            for one in update if isinstance(update, list) else (update,):
                found = one.get("messages") if isinstance(one, dict) else getattr(one, "messages", None)
                messages = found if isinstance(found, list) else (found,)
                if not self._streams:
                    self._count(messages)
                self._messages(out, ns, messages)

    def _count(self, messages: Iterable[Any]) -> None:
        for message in messages:
            if isinstance(message, AIMessage) and message.usage_metadata and message.id not in self.shown:
                self._ctx.add_usage(usage_of(message.usage_metadata, message.response_metadata))

    def _task(self, out: Items, ns: Namespace, task: Mapping[str, Any]) -> None:
        id = task["id"]
        if "result" not in task and "error" not in task:
            if calls := _calls_in(task.get("input")):
                self._tools[id] = calls
            return
        calls = self._tools.pop(id, [])
        error, interrupts = task.get("error"), task.get("interrupts") or ()
        if error is not None:
            self.failed.update(name for _, name in calls)
        self._settle(out, (*ns, f"{task['name']}:{id}"), error, [one["id"] for one in interrupts])
        if error is None and not interrupts:
            for one in [one for one, path in self._half.items() if id in path]:
                del self._half[one]
        for key in [key for key in self._texts if id in key]:
            del self._texts[key]

    # -- sub-agents -------------------------------------------------------------------------------------------------

    def _author(self, out: Items, ns: Namespace, meta: Mapping[str, Any]) -> str:
        """Return the id of the sub-agent that a namespace is, which is begun with the first that it says."""
        id = self._subagents.get(ns)
        if id is None:
            parent = self._author(out, ns[:-1], {}) if len(ns) > 1 else None
            node, _, task = ns[-1].partition(":")
            name = meta.get("lc_agent_name")
            id = self._subagents[ns] = "/".join(ns)
            calls = self._tools.get(task, [])
            out.append(
                SubagentStartedEvent(
                    subagent_run_id=id,
                    name=name if name and name != self._name else node,
                    parent_subagent_run_id=parent,
                    parent_tool_call_id=calls[0][0] if len(calls) == 1 else None,
                )
            )
        return id

    def _settle(self, out: Items, ns: Namespace, error: object, interrupts: list[str]) -> None:
        """End the sub-agents of a task, the innermost first."""
        depth = len(ns)
        inside = [one for one in self._subagents if one[:depth] == ns]
        for one in sorted(inside, key=len, reverse=True):
            id = self._subagents.pop(one)
            if error is not None:
                name = class_of(error) if isinstance(error, BaseException) else type(error).__name__
                out.append(SubagentErrorEvent(subagent_run_id=id, message=f"raised {name}", code="agent_failed"))
            else:
                outcome = SubagentFinishedSuspendedOutcome(interrupt_ids=interrupts) if interrupts else None
                out.append(SubagentFinishedEvent(subagent_run_id=id, outcome=outcome))

    def close(self) -> None:
        """Count what was used by messages that were cut short."""
        for usage, metadata in self._usage.values():
            self._ctx.add_usage(usage_of(usage, metadata))
        self._usage.clear()


def _path(ns: Namespace, meta: Mapping[str, Any]) -> Namespace:
    """Return the ids of the tasks that a message comes from, the outermost first."""
    inner = meta.get("langgraph_checkpoint_ns")
    steps = inner.split("|") if inner else ns
    return tuple(step.partition(":")[2] for step in steps)


def _finish_reason(message: BaseMessage) -> object:
    metadata = message.response_metadata
    return metadata.get("finish_reason") or metadata.get("stop_reason")


def _calls_in(given: Any) -> list[tuple[str, str]]:
    """Return the calls that a tools' node is given: alone, in a list, or as the last message of a state."""
    if isinstance(given, dict) and isinstance(call := given.get("tool_call"), dict):
        given = [call]
    elif isinstance(given, dict) and given.get("type") == "tool_call":
        given = [given]
    if not isinstance(given, list):
        return []
    return [
        (call.get("id") or "", call["name"])
        for call in given
        if isinstance(call, dict) and call.get("type") == "tool_call" and "name" in call
    ]


def _text_of_blocks(blocks: Any, files: Sized) -> str:
    texts = [text for kind, text in says(blocks) if kind == "text"]
    return "".join(texts) if texts or files else json_of(blocks)
