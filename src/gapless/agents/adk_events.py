"""Google ADK's events → the events of a run.

ADK sends a model's answer twice: as partial events while it comes, then once more whole. What was shown is not shown
again; what came only in the whole event is. All of it goes by author and branch, because agents may work in parallel
and need not give their partial events one id.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from google.adk.events import Event
from google.adk.models.llm_response import LlmResponse
from google.genai import types

from gapless.agents.adk_arguments import ArgumentsWriter
from gapless.agents.adk_interrupts import interrupt_for
from gapless.agents.adk_raw import Shows, keeps_state_only, mark, raw_partial, silence, tell
from gapless.agents.adk_turn import CONFIRMATION, CREDENTIAL, INPUT, failure_in
from gapless.agents.base import AgentItem, RunContext
from gapless.agents.values import json_of, plain
from gapless.agents.writing import Call, artifact, file, notice, result, with_files
from gapless.events import (
    ContentPart,
    CustomEvent,
    EventBase,
    Interrupt,
    ReasoningEncryptedValueEvent,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ReasoningMessageStartEvent,
    ReasoningStartEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallStartEvent,
)
from gapless.fold import VOID

__all__ = ["Shown", "Stream", "Translation", "close_stream"]

_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "MALFORMED_FUNCTION_CALL": "error", "OTHER": "other"}
_ABORTED = "INVOCATION_ABORTED"


class Stream:
    """What one agent has shown of the model response that it is receiving."""

    __slots__ = (
        "blocks",
        "calls",
        "files",
        "kind",
        "message_id",
        "others",
        "said",
        "source",
        "spoken",
        "text",
        "texts",
        "thought",
        "writers",
    )

    def __init__(self, source: Event) -> None:
        self.source = source
        self.kind = ""
        """What is open: "text", "thought" or nothing."""
        self.message_id = ""
        self.blocks = 0
        self.said: list[str] = []
        """Ids of its messages."""
        self.spoken = ""
        """The last one that is text."""
        self.texts: list[tuple[str, bool, list[str]]] = []
        """Its messages, thoughts apart, and their pieces."""
        self.text: list[str] = []
        self.thought: list[str] = []
        self.files: list[int] = []
        """Numbers of the files shown."""
        self.others: list[types.Part] = []
        """Code, what came of it and files, shown before the whole response came."""
        self.calls: list[types.FunctionCall] = []
        """Calls shown whole before the whole response came."""
        self.writers: dict[str, ArgumentsWriter] = {}
        """Calls whose arguments are streaming, by id."""


class Translation:
    """One run's translation; `items` takes ADK's events in order."""

    tells = True
    """ADK's own events come beside what they are translated to."""
    hides_marks = False
    """But not those that only mark how far agents are, in an app that was made resumable here."""

    def __init__(self, ctx: RunContext, root: str, state: dict[str, Any]) -> None:
        self.error: tuple[str, str] | None = None
        """Code and message of the error that the last model response was."""
        self.finish_reason: str | None = None
        self.final_text = ""
        """The text of the last whole response."""
        self.streams: dict[tuple[str | None, ...], Stream] = {}
        """What each agent has shown of its response, by author and branch."""
        self.pending: dict[str, tuple[types.FunctionCall, Event]] = {}
        """Calls that wait for an answer from outside, with the events that made them."""
        self._ctx = ctx
        self._root = root
        self._state: dict[str, Any] | None = state
        """The session's state before the run, until the run changes it."""
        self._agents: dict[str | None, str] = {}
        """Which agent other than the root works in which branch."""
        self.shown_as: dict[str, str] = {}
        """A call's id → the id that it was shown under while it was partial, where that is another one."""
        self._codes: dict[tuple[str, str | None], list[str]] = {}
        """Code that models run by themselves and that nothing has come of yet, by author and branch."""
        self._files = 0
        self._told = False
        self._signed: set[str] = set()
        """Calls and thoughts whose signature was told."""
        self._placeholders: dict[str, Any] = {}
        """First responses of calls that go on to wait."""

    def items(self, event: Event) -> list[AgentItem]:
        """Return what the run shows of one event."""
        out: list[AgentItem] = []
        author, branch = event.author, event.branch
        if self._agents.get(branch, self._root) != author:
            self._hand_over(out, author, branch)
        parts = (event.content.parts if event.content is not None else None) or []
        if event.partial:
            key = (author, branch)
            stream = self.streams.get(key)
            if stream is None:
                stream = self.streams[key] = Stream(event)
            for part in parts:
                self._partial(out, stream, part, event)
            if self.tells and not (len(parts) == 1 and parts[0].text):
                silence(out)
                files = sum(part.inline_data is not None for part in parts)
                tell(out, event, Shows([], stream.files[len(stream.files) - files :]), self.shown_id)
        else:
            stream = self._whole(out, event, parts)
            if self.tells and not (self.hides_marks and keeps_state_only(event)):
                silence(out)
                texts = [(id, thought, "".join(pieces)) for id, thought, pieces in stream.texts]
                tell(out, event, Shows(texts, stream.files), self.shown_id)
        if self.tells and not self._told and out:
            self._told = True
            mark(out)
        return out

    def more(self, author: str, branch: str | None, text: str, *, thought: bool) -> AgentItem | None:
        """Return what the run shows of a partial event that is nothing but more text of the one before it; None where
        there is more to it: another agent goes on, or something else begins."""
        stream = self.streams.get((author, branch))
        kind = "thought" if thought else "text"
        if stream is None or stream.kind != kind or self._agents.get(branch, self._root) != author:
            return None
        (stream.thought if thought else stream.text).append(text)
        stream.texts[-1][2].append(text)
        if thought:
            return ReasoningMessageContentEvent(message_id=stream.message_id, delta=text)
        return TextMessageContentEvent(message_id=stream.message_id, delta=text)

    def unsaved(self) -> list[tuple[Event, str]]:
        """Text that was shown and that no whole event has confirmed, each with its first partial event."""
        return [(stream.source, "".join(stream.text)) for stream in self.streams.values() if stream.text]

    def half(self) -> list[str]:
        """Return the ids of messages and calls of responses that are not whole."""
        streams = self.streams.values()
        return [
            id
            for stream in streams
            for id in (*stream.said, *(call.id or "" for call in stream.calls), *stream.writers)
        ]

    @property
    def speakers(self) -> list[str]:
        """Returns the agents other than the root that are at work."""
        return list(self._agents.values())

    def settle(self) -> list[AgentItem]:
        """Ends what is open, before the run pauses or ends."""
        out: list[AgentItem] = []
        for stream in self.streams.values():
            close_stream(out, stream)
        self._agents.clear()
        return out

    # -- who speaks -------------------------------------------------------------------------------------------------

    def _hand_over(self, out: list[AgentItem], author: str, branch: str | None) -> None:
        """Another agent goes on in this branch: a step ends, and one begins unless it is the root agent's."""
        if author in ("user", "model"):
            return
        before = self._agents.pop(branch, None)
        if before is not None:
            stream = self.streams.get((before, branch))
            if stream is not None:
                close_stream(out, stream)
            out.append(StepFinishedEvent(step_name=before))
        if author and author != self._root:
            self._agents[branch] = author
            out.append(StepStartedEvent(step_name=author))

    # -- while a response comes -------------------------------------------------------------------------------------

    def _partial(self, out: list[AgentItem], stream: Stream, part: types.Part, event: Event) -> None:
        text = part.text
        if text:
            if part.thought:
                self._thought(out, stream, text, event)
                self._sign_thought(out, stream, part)
            else:
                self.add_text(out, stream, text, event)
        elif part.function_call is not None:
            self._partial_call(out, stream, part.function_call, event)
            if part.function_call in stream.calls[-1:]:
                self._sign(out, part)
        elif self._other(out, stream, part, event):
            stream.others.append(part)

    def add_text(self, out: list[AgentItem], stream: Stream, text: str, event: Event) -> None:
        if stream.kind != "text":
            _open(out, stream, "text", event)
            stream.spoken = stream.message_id
            start = TextMessageStartEvent(message_id=stream.message_id, role="assistant", name=event.author or None)
            if event.author == "user":
                start = TextMessageStartEvent(message_id=stream.message_id, role="user")
            self._template(start, event)
            out.append(start)
        stream.text.append(text)
        stream.texts[-1][2].append(text)
        out.append(TextMessageContentEvent(message_id=stream.message_id, delta=text))

    def _thought(self, out: list[AgentItem], stream: Stream, text: str, event: Event) -> None:
        if stream.kind != "thought":
            _open(out, stream, "thought", event)
            start = ReasoningStartEvent(message_id=stream.message_id)
            self._template(start, event)
            out += [start, ReasoningMessageStartEvent(message_id=stream.message_id, role="reasoning")]
        stream.thought.append(text)
        stream.texts[-1][2].append(text)
        out.append(ReasoningMessageContentEvent(message_id=stream.message_id, delta=text))

    def _template(self, start: EventBase, event: Event) -> None:
        if self.tells and event.partial:
            start.raw_event = {"adk": raw_partial(event)}

    def _partial_call(self, out: list[AgentItem], stream: Stream, call: types.FunctionCall, event: Event) -> None:
        streaming = bool(call.partial_args) or call.will_continue is not None
        if not streaming and not (call.name and call.id):
            return  # the end of one whose arguments streamed
        if not streaming:
            if call.name not in (CONFIRMATION, CREDENTIAL, INPUT):
                stream.calls.append(call)
                self._call(out, stream, call, waits=call.id in (event.long_running_tool_ids or ()))
            return
        id = call.id or next(reversed(stream.writers), "")
        if not id:
            return
        writer = stream.writers.setdefault(id, ArgumentsWriter())
        if call.name and not writer.started:
            writer.name = call.name
        for piece in call.partial_args or ():
            writer.add(piece)
        if writer.name and (delta := writer.unsaid()):
            _show_call(out, stream, id, writer, delta)

    # -- when it is whole -------------------------------------------------------------------------------------------

    def _whole(self, out: list[AgentItem], event: Event, parts: list[types.Part]) -> Stream:
        """Show what of a response has not been shown; returns what has been by then."""
        self.account(event)
        self._heed(event)
        key = (event.author, event.branch)
        speaks = any(part.text or _is_shown_apart(part) for part in parts)
        stream = (self.streams.pop(key, None) if speaks else None) or Stream(event)
        if event.author != "user":
            _take_back(out, stream, parts)
        text, thought, thoughts = Shown(stream.text), Shown(stream.thought), 0
        for number, part in enumerate(parts, 1):
            if part.text and part.thought:
                if rest := thought.beyond(part.text):
                    self._thought(out, stream, rest, event)
                self._sign_thought(out, stream, part, thoughts)
                thoughts += 1
            elif part.text and event.author != "user":
                if rest := text.beyond(part.text):
                    self.add_text(out, stream, rest, event)
            elif part.function_call is not None:
                self._whole_call(out, stream, part.function_call, event)
                self._sign(out, part)
            elif part.function_response is not None:
                self.add_response(out, part.function_response, event, number)
            elif stream.others and _same(stream.others[0], part):
                del stream.others[0]
            else:
                self._other(out, stream, part, event)
        if speaks:
            close_stream(out, stream)
            out += [ToolCallEndEvent(tool_call_id=id) for id, writer in stream.writers.items() if writer.started]
        if event.actions.state_delta:
            self._state_delta(out, event.actions.state_delta)
        out += [artifact(name, version) for name, version in event.actions.artifact_delta.items()]
        if event.output is not None and not parts:  # a node's own output; an answer in words is text already
            self._ctx.result = plain(event.output)
        return stream

    def account(self, event: LlmResponse) -> None:
        """Count what a model call has taken."""
        usage = event.usage_metadata
        if usage is not None:
            self._ctx.add_usage(
                TokenUsage(
                    model=event.model_version,
                    input_tokens=usage.prompt_token_count,
                    output_tokens=_sum(usage.candidates_token_count, usage.thoughts_token_count),
                    total_tokens=usage.total_token_count,
                    reasoning_tokens=usage.thoughts_token_count,
                    cached_input_tokens=usage.cached_content_token_count,
                )
            )

    def _heed(self, event: Event) -> None:
        """Note how a response ended."""
        content = event.content
        if event.finish_reason is not None:
            name = event.finish_reason.name
            self.finish_reason = _FINISH.get(name, "content_filter")
        if event.error_code is not None and event.error_code != _ABORTED:
            # An answer that was cut at its length is an answer; its finish reason says so.
            cut = event.error_code == "MAX_TOKENS" and content is not None and content.parts
            self.error = None if cut else (event.error_code, event.error_message or "")
        elif content is not None and content.parts and event.author != "user":
            self.error = None
            self.final_text = "".join(part.text for part in content.parts if part.text and not part.thought)

    def _whole_call(self, out: list[AgentItem], stream: Stream, call: types.FunctionCall, event: Event) -> None:
        id = call.id or ""
        if call.name in (CONFIRMATION, CREDENTIAL, INPUT) or id in (event.long_running_tool_ids or ()):
            self.pending[id] = (call, event)
            if call.name in (CONFIRMATION, CREDENTIAL, INPUT):
                return
        shown = id if id in stream.writers else _by_name(stream, call)
        writer = stream.writers.pop(shown, None)
        if writer is not None:
            if shown != id:
                self.shown_as[id] = shown
            writer.name = writer.name if writer.started else call.name or ""
            unsaid = writer.unsaid()
            rest, exact = writer.finish(call.args or {})
            _show_call(out, stream, shown, writer, unsaid + rest)
            out.append(ToolCallEndEvent(tool_call_id=shown))
            if not exact:
                message = f"the arguments of {call.name} came out of order; what was streamed of them is not exact"
                out.append(notice("tool_arguments_differ", message))
            return
        for one in stream.calls:
            if one.name == call.name and (one.id == id or one.args == call.args):
                stream.calls.remove(one)
                if one.id and one.id != id:
                    self.shown_as[id] = one.id
                return
        self._call(out, stream, call, waits=id in self.pending)

    def _sign(self, out: list[AgentItem], part: types.Part) -> None:
        """Tell a call's thought signature, before its end where that is said only now: a client that keeps the history
        itself brings it back with the call."""
        call, signature = part.function_call, part.thought_signature
        if call is None or not call.id or not signature or call.name in (CONFIRMATION, CREDENTIAL, INPUT):
            return
        id = self.shown_id(call.id)
        if id in self._signed:
            return
        self._signed.add(id)
        value = base64.b64encode(signature).decode()
        ends = bool(out) and isinstance(last := out[-1], ToolCallEndEvent) and last.tool_call_id == id
        place = len(out) - 1 if ends else len(out)
        out.insert(place, ReasoningEncryptedValueEvent(subtype="tool-call", entity_id=id, encrypted_value=value))

    def _sign_thought(self, out: list[AgentItem], stream: Stream, part: types.Part, number: int = -1) -> None:
        """Tell the signature of the thought of this number, or the last."""
        thoughts = [id for id, is_thought, _ in stream.texts if is_thought][number:][:1]
        if part.thought_signature and thoughts and thoughts[0] not in self._signed:
            self._signed.update(thoughts)
            value = base64.b64encode(part.thought_signature).decode()
            out.append(ReasoningEncryptedValueEvent(subtype="message", entity_id=thoughts[0], encrypted_value=value))

    def _call(self, out: list[AgentItem], stream: Stream, call: types.FunctionCall, waits: bool = False) -> None:
        close_stream(out, stream)
        id = call.id or ""
        metadata = {"adk": {"longRunning": True}} if waits else None
        parent, branch = None, stream.source.branch  # the message before it
        if any(other.source.branch != branch for other in self.streams.values()):  # which may be another agent's
            parent = stream.spoken or id
        told = Call(id, call.name or "", parent=parent)
        out += [*told.start(metadata), *told.end(json_of(call.args or {}))]

    def add_response(self, out: list[AgentItem], response: types.FunctionResponse, event: Event, number: int) -> None:
        id = response.id or ""
        if id in self.pending or id in event.actions.requested_tool_confirmations:
            self._placeholders[id] = response.response
            return
        self.add_result(out, response, event, number)

    def add_result(self, out: list[AgentItem], response: types.FunctionResponse, event: Event, number: int) -> None:
        id = event.id if number == 1 else f"{event.id}-r{number}"
        error = failure_in(response.response)
        out.append(result(id, self.shown_id(response.id or ""), _content_of(response), error=error))

    def _other(self, out: list[AgentItem], stream: Stream, part: types.Part, event: Event) -> bool:
        """Show media, or code that the model runs by itself and what comes of it; returns whether the part is that."""
        codes = self._codes.setdefault((event.author, event.branch), [])
        if part.inline_data is not None and part.inline_data.data:
            close_stream(out, stream)
            stream.files.append(self._files)
            self._files += 1
            out.append(file(part.inline_data.mime_type, part.inline_data.data))
        elif part.file_data is not None:
            close_stream(out, stream)
            self._files += 1
            out.append(file(part.file_data.mime_type, url=part.file_data.file_uri))
        elif part.executable_code is not None:
            code = part.executable_code
            args = {"language": code.language, "code": code.code}
            stream.blocks += 1
            codes.append(f"{event.id}-code{stream.blocks}")
            self._call(out, stream, types.FunctionCall(id=codes[-1], name="code_execution", args=args))
        elif part.code_execution_result is not None:
            close_stream(out, stream)
            came = part.code_execution_result
            stream.blocks += 1
            id = codes.pop(0) if codes else f"{event.id}-code{stream.blocks}"
            content = json_of({"outcome": came.outcome, "output": came.output})
            ran = came.outcome in (None, types.Outcome.OUTCOME_OK, types.Outcome.OUTCOME_UNSPECIFIED)
            error = None if ran else came.output or str(came.outcome)
            out.append(result(f"{id}-result", id, content, error=error))
        else:
            return False
        return True

    def _state_delta(self, out: list[AgentItem], delta: dict[str, Any]) -> None:
        if self._state:
            snapshot = json.loads(json_of(self._state))
            out.append(StateSnapshotEvent(snapshot=snapshot))
        self._state = None
        patch = [
            {
                "op": "add",  # which replaces a member that is there (RFC 6902, section 4.1)
                "path": "/" + key.replace("~", "~0").replace("/", "~1"),
                "value": json.loads(json_of(value)),
            }
            for key, value in delta.items()
            if not key.startswith("temp:")
        ]
        if patch:
            out.append(StateDeltaEvent(delta=patch))

    def shown_id(self, call_id: str) -> str:
        """Return the id that a call is known under in the stream."""
        return self.shown_as.get(call_id, call_id)

    def interrupts(self) -> list[Interrupt]:
        """Make the questions: one interrupt per call that waits, under the call's id."""
        return [
            interrupt_for(call, id, self.shown_id, self._placeholders.get(id)) for id, (call, _) in self.pending.items()
        ]


def _open(out: list[AgentItem], stream: Stream, kind: str, event: Event) -> None:
    close_stream(out, stream)
    stream.kind = kind
    stream.blocks += 1
    stream.message_id = event.id if stream.blocks == 1 else f"{event.id}-{stream.blocks}"
    stream.said.append(stream.message_id)
    stream.texts.append((stream.message_id, kind == "thought", []))


def _show_call(out: list[AgentItem], stream: Stream, id: str, writer: ArgumentsWriter, delta: str) -> None:
    if not writer.started:
        close_stream(out, stream)
        for other, one in [*stream.writers.items(), (id, writer)]:  # in the order in which they were first heard of
            # LiteLlm gives a number to a call whose id is still to come, and goes on with it under that.
            if one is writer or (one.name and not one.started and not other.isdigit()):
                one.started = True
                out.append(ToolCallStartEvent(tool_call_id=other, tool_call_name=one.name))
            if one is writer:
                break
    out.append(ToolCallArgsEvent(tool_call_id=id, delta=delta))


def close_stream(out: list[AgentItem], stream: Stream) -> None:
    if stream.kind == "text":
        out.append(TextMessageEndEvent(message_id=stream.message_id))
    elif stream.kind == "thought":
        out.append(ReasoningMessageEndEvent(message_id=stream.message_id))
        out.append(ReasoningEndEvent(message_id=stream.message_id))
    stream.kind = ""


def _take_back(out: list[AgentItem], stream: Stream, parts: list[types.Part]) -> None:
    """Take back texts that the whole response has otherwise: a callback replaced them, or a service left pieces out."""
    for thought, pieces in ((False, stream.text), (True, stream.thought)):
        shown = "".join(pieces).strip()
        whole = "".join(part.text for part in parts if part.text and bool(part.thought) == thought).strip()
        if not shown or not whole or whole.startswith(shown) or shown.startswith(whole):
            continue
        close_stream(out, stream)
        ids = [id for id, of_thought, _ in stream.texts if of_thought == thought]
        out.append(CustomEvent(name=VOID, value={"messageIds": ids, "toolCallIds": []}))
        stream.texts = [one for one in stream.texts if one[1] != thought]
        pieces.clear()


def _by_name(stream: Stream, call: types.FunctionCall) -> str:
    """Return the id under which a call was shown whose id has changed since; "" for none."""
    return next((id for id, writer in stream.writers.items() if writer.name == call.name), "")


def _is_shown_apart(part: types.Part) -> bool:
    one = part.function_call or part.executable_code or part.code_execution_result or part.inline_data
    return one is not None


def _same(shown: types.Part, part: types.Part) -> bool:
    return (shown.executable_code, shown.code_execution_result, shown.inline_data, shown.file_data) == (
        part.executable_code,
        part.code_execution_result,
        part.inline_data,
        part.file_data,
    )


class Shown:
    """What was shown of a response while it came, as its whole parts account for it one after the other."""

    def __init__(self, pieces: list[str]) -> None:
        self._text = "".join(pieces)
        self._accounted = 0

    def beyond(self, whole: str) -> str:
        """Return what of the next part has not been shown."""
        if self._text.startswith(whole, self._accounted):
            self._accounted += len(whole)
            return ""
        rest, self._accounted = self._text[self._accounted :], len(self._text)
        if rest.strip() == whole.strip():
            return ""
        return whole[len(rest) :] if whole.startswith(rest) else whole


def _content_of(response: types.FunctionResponse) -> str | list[ContentPart]:
    """Return what a tool has returned, its pictures and files too."""
    files: list[tuple[str | None, bytes | None, str | None]] = []
    for part in response.parts or ():
        if (blob := part.inline_data) is not None and blob.data is not None:
            files.append((blob.mime_type, blob.data, None))
        elif (named := part.file_data) is not None and named.file_uri:
            files.append((named.mime_type, None, named.file_uri))
    return with_files(json_of(response.response or {}), files)


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
