"""The two encodings for OpenAI's clients, over runs that hypothesis makes up."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from gapless.config import Limits
from gapless.events import (
    CustomEvent,
    Interrupt,
    ReasoningEndEvent,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    UserMessage,
)
from gapless.fold import Fold
from gapless.journals.merge import merge_deltas
from gapless.protocols.openai.chat_wire import OPTIONS, ChatEncoder
from gapless.protocols.openai.responses_wire import ResponsesEncoder
from gapless.records import RunRecord, RunStatus
from gapless.runs.recorder import Recorder
from gapless.wire import Encoder, parse_cursor

ENCODERS: list[type[Encoder]] = [ChatEncoder, ResponsesEncoder]
CLIENTS, OWN = "clients_tool", "own_tool"
CHUNK: TypeAdapter[Any] = TypeAdapter(ChatCompletionChunk)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = [TokenUsage(model="m", input_tokens=3, output_tokens=4)]


class Pages:
    """A journal that keeps what is appended."""

    full = False
    size_bytes = 0

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def append(self, event: bytes) -> None:
        self.events.append(event)

    @property
    def appended(self) -> int:
        return len(self.events)


class Stored(NamedTuple):
    record: RunRecord
    events: list[bytes]
    fold: Fold


def record(status: RunStatus = RunStatus.FINISHED, *tools: str) -> RunRecord:
    metadata = {OPTIONS: {"tools": list(tools), "include_usage": True, "previous": None}}
    return RunRecord(
        id="r1",
        session_id="s1",
        user_id="u1",
        agent="agent",
        message="Hi",
        created_at=1_790_000_000_123,
        status=status,
        input=UserMessage(id="u", content="Hi", metadata=metadata),
    )


def stored(items: list[Any], end: Any, *tools: str) -> Stored:
    pages = Pages()
    recorder = Recorder(pages, "r1", "s1", Limits())  # type: ignore[arg-type]  # all of a journal that it uses
    recorder.start(1_790_000_000_200)
    for item in items:
        recorder.add(item)
    recorder.put(end)
    recorder.fold.add(end)
    return Stored(record(RunStatus.FINISHED, *tools), pages.events, recorder.fold)


def finished(outcome: Any = None, **fields: Any) -> RunFinishedEvent:
    outcome = outcome or RunFinishedSuccessOutcome()
    return RunFinishedEvent(thread_id="s1", run_id="r1", outcome=outcome, timestamp=1_790_000_009_000, **fields)


texts = st.text(max_size=12)
pieces = st.lists(texts, min_size=1, max_size=6)


@st.composite
def steps(draw: st.DrawFn) -> list[Any]:
    """Part of what an agent yields: some text, a thought, a call, an aside."""
    number = draw(st.integers(0, 10**9))
    kind = draw(st.sampled_from(["text", "message", "thought", "call", "user", "aside"]))
    deltas = draw(pieces)
    match kind:
        case "text":
            return deltas
        case "message":
            return [TextMessageContentEvent(message_id=f"m{number}", delta=delta) for delta in deltas]
        case "user":
            start = TextMessageStartEvent(message_id=f"u{number}", role="user")
            return [start, *(TextMessageContentEvent(message_id=f"u{number}", delta=delta) for delta in deltas)]
        case "thought":
            id = f"t{number}"
            thoughts = [ReasoningMessageContentEvent(message_id=id, delta=delta) for delta in deltas]
            return [*thoughts, ReasoningMessageEndEvent(message_id=id), ReasoningEndEvent(message_id=id)]
        case "call":
            id, name = f"c{number}", draw(st.sampled_from([CLIENTS, OWN]))
            args = [ToolCallArgsEvent(tool_call_id=id, delta=delta) for delta in deltas]
            call = [ToolCallStartEvent(tool_call_id=id, tool_call_name=name), *args, ToolCallEndEvent(tool_call_id=id)]
            if draw(st.booleans()):
                call.append(ToolCallResultEvent(message_id=f"{id}-r", tool_call_id=id, content=deltas[0]))
            return call
        case _:
            reason = draw(st.sampled_from(["stop", "length", "content-filter", "tool-calls", "odd"]))
            return [CustomEvent(name="gapless.finish", value={"reason": reason}), StepStartedEvent(step_name="x")]


@st.composite
def runs(draw: st.DrawFn) -> Stored:
    parts = draw(st.lists(steps(), max_size=6, unique_by=lambda step: str(step[0])))
    items = [item for part in parts for item in part]
    calls = [item.tool_call_id for item in items if isinstance(item, ToolCallStartEvent)]
    pending = draw(st.none() | st.lists(st.sampled_from(calls), unique=True)) if calls else None
    end = draw(
        st.sampled_from(
            [
                finished(RunFinishedSuccessOutcome(pending_tool_call_ids=pending), usage=USAGE),
                finished(),
                finished(RunFinishedCancelledOutcome()),
                RunErrorEvent(message="it broke", code="tool_failed", usage=USAGE),
            ]
        )
    )
    return stored(items, end, CLIENTS)


def stream(run: Stored, kind: type[Encoder], cursor: str = "0", *, merge: bool = False) -> list[bytes]:
    """The frames that a client with this cursor gets."""
    encoder, at = kind(run.record), parse_cursor(cursor, "r1")
    encoder.skip(run.events[: at.seq])
    rest = run.events[at.seq :]
    items = merge_deltas(at.seq + 1, rest) if merge and not at.part else list(enumerate(rest, at.seq + 1))
    body = encoder.encode(items, at.part) + encoder.end(len(run.events))
    assert body.endswith(b"\n\n")
    return [frame + b"\n\n" for frame in body[:-2].split(b"\n\n")]


def id_of(frame: bytes) -> str:
    (id,) = re.findall(rb"^id: (.+)$", frame, re.MULTILINE)
    return str(id.decode())


def data_of(frame: bytes) -> Any:
    (data,) = re.findall(rb"^data: (.+)$", frame, re.MULTILINE) or [b"null"]
    return "[DONE]" if data == b"[DONE]" else json.loads(data)


@pytest.mark.parametrize("kind", ENCODERS)
@given(run=runs())
def test_the_tail_after_any_id_is_the_uncut_tail(kind: type[Encoder], run: Stored) -> None:
    whole = stream(run, kind)
    ids = [id_of(frame) for frame in whole]
    assert len(set(ids)) == len(ids)
    for place, id in enumerate(ids[:-1], 1):
        assert stream(run, kind, id) == whole[place:]


@pytest.mark.parametrize("kind", ENCODERS)
@given(run=runs())
def test_done_comes_before_the_end_marker_and_both_come_last(kind: type[Encoder], run: Stored) -> None:
    *frames, done, end = stream(run, kind)
    assert data_of(done) == "[DONE]"
    assert re.fullmatch(rb"event: end\nid: \d+\.end\n\n", end)
    assert all(b"\r" not in frame and (b"\n" + frame).count(b"\ndata: ") == 1 for frame in frames)


@given(run=runs(), data=st.data())
def test_a_sequence_number_means_one_place_in_every_stream(run: Stored, data: st.DataObject) -> None:
    whole = stream(run, ResponsesEncoder)
    numbers = {id_of(frame): data_of(frame)["sequence_number"] for frame in whole[:-2]}
    assert list(numbers.values()) == list(range(len(numbers)))
    cursor = data.draw(st.sampled_from(["0", *list(numbers)[:-1]]))
    for frame in stream(run, ResponsesEncoder, cursor, merge=True)[:-2]:
        assert data_of(frame)["sequence_number"] == numbers[id_of(frame)]
    for place, number in enumerate(numbers.values(), 1):
        found = ResponsesEncoder(run.record).locate(run.events, number)
        assert found is not None
        text = f"{found.seq + 1}.{found.part}" if found.part else str(found.seq)
        assert stream(run, ResponsesEncoder, text) == whole[place:]
    assert ResponsesEncoder(run.record).locate(run.events, len(numbers)) is None


@pytest.mark.parametrize("kind", ENCODERS)
@given(run=runs(), data=st.data())
def test_merged_frames_come_to_the_same(kind: type[Encoder], run: Stored, data: st.DataObject) -> None:
    whole = stream(run, kind)
    cursor = data.draw(st.sampled_from(["0", *(id_of(frame) for frame in whole[:-2])]))
    assert come_to(stream(run, kind, cursor, merge=True)) == come_to(stream(run, kind, cursor))


def come_to(frames: list[bytes]) -> list[Any]:
    """What a client makes of it: deltas of one thing joined, the rest as it is."""
    joined: list[Any] = []
    for frame in frames:
        document = data_of(frame)
        place: Any = None
        delta = ""
        if isinstance(document, dict):
            document.pop("sequence_number", None)
            if "delta" in document:
                delta = document.pop("delta")
                place = document
            elif document.get("choices") and document["choices"][0]["finish_reason"] is None:
                inner = document["choices"][0]["delta"]
                key = next(iter(inner))
                if key == "tool_calls":
                    delta = inner[key][0]["function"].pop("arguments")
                else:
                    delta = inner.pop(key) if key != "role" else ""
                place = [key, document]
        if place is not None and joined and joined[-1][0] == place:
            joined[-1][1] += delta
        else:
            joined.append([place, delta] if place is not None else [None, document])
    return joined


@given(run=runs())
def test_every_frame_fits_openais_types(run: Stored) -> None:
    for frame in stream(run, ChatEncoder)[:-2]:
        document = data_of(frame)
        if "error" in document:
            assert set(document["error"]) == {"message", "type", "param", "code"}
        else:
            CHUNK.validate_python(document)
    for frame in stream(run, ResponsesEncoder)[:-2]:
        document = data_of(frame)
        assert frame.startswith(b"event: %b\n" % document["type"].encode())
        assert EVENT.validate_python(document).type == document["type"]


@given(run=runs())
def test_the_answer_is_told_whole_and_its_end_honestly(run: Stored) -> None:
    chunks = [data_of(frame) for frame in stream(run, ChatEncoder)[:-2]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c.get("choices"))
    assert text == run.fold.text
    reasons = [c["choices"][0]["finish_reason"] for c in chunks if c.get("choices")]
    failed = run.fold.error is not None or isinstance(run.fold.finished.outcome, RunFinishedCancelledOutcome)  # type: ignore[union-attr]
    assert any(reasons) != failed
    assert ("error" in chunks[-1]) == failed
    last = data_of(stream(run, ResponsesEncoder)[-3])
    shown = [p["text"] for i in last["response"]["output"] if i["type"] == "message" for p in i["content"]]
    assert sorted("\n\n".join(filter(None, shown))) == sorted(text), "each is an item of its own"
    if failed:
        assert last["type"] in ("response.failed", "response.incomplete")
        assert last["response"]["status"] in ("failed", "cancelled")
    else:
        assert last["type"] == f"response.{last['response']['status']}"


# --------------------------------------------------------------------------------------------------- single decisions


def call(id: str, name: str, *deltas: str, result: str | None = None) -> list[Any]:
    items: list[Any] = [ToolCallStartEvent(tool_call_id=id, tool_call_name=name)]
    items += [ToolCallArgsEvent(tool_call_id=id, delta=delta) for delta in deltas]
    items.append(ToolCallEndEvent(tool_call_id=id))
    if result is not None:
        items.append(ToolCallResultEvent(message_id=f"{id}-r", tool_call_id=id, content=result))
    return items


def chat_calls(run: Stored) -> list[tuple[int, str | None, str]]:
    deltas = [
        data_of(frame)["choices"][0]["delta"] for frame in stream(run, ChatEncoder)[:-2] if b'"tool_calls":' in frame
    ]
    return [
        (one["index"], one["function"].get("name"), one["function"]["arguments"])
        for delta in deltas
        for one in delta["tool_calls"]
    ]


def test_the_clients_calls_stream_and_the_agents_own_stay_inside() -> None:
    run = stored([*call("a", OWN, "{}", result="x"), *call("b", CLIENTS, "{", "}")], finished(), CLIENTS)
    assert chat_calls(run) == [(0, CLIENTS, ""), (0, None, "{"), (0, None, "}")]
    assert data_of(stream(run, ChatEncoder)[-3])["choices"][0]["finish_reason"] == "tool_calls"
    output = data_of(stream(run, ResponsesEncoder)[-3])["response"]["output"]
    assert [(item["type"], item["arguments"], item.get("output")) for item in output] == [
        ("mcp_call", "{}", "x"),
        ("function_call", "{}", None),
    ]


def test_a_call_that_turns_out_to_be_the_clients_is_told_at_the_end() -> None:
    """A run that another wire started: this one does not know the client's tools until the run says what is pending."""
    items = [*call("a", OWN, "{}", result="x"), *call("b", OWN, "[", "]"), *call("c", OWN)]
    run = stored(items, finished(RunFinishedSuccessOutcome(pending_tool_call_ids=["b"])))
    assert chat_calls(run) == [(0, OWN, "[]")]
    output = data_of(stream(run, ResponsesEncoder)[-3])["response"]["output"]
    assert [(item["type"], item["status"], item["arguments"]) for item in output] == [
        ("mcp_call", "completed", "{}"),
        ("mcp_call", "incomplete", "[]"),
        ("mcp_call", "incomplete", ""),
        ("function_call", "completed", "[]"),
    ]


def test_items_have_ids_of_their_own_where_an_agent_uses_one_again() -> None:
    items = [
        TextMessageContentEvent(message_id="x", delta="one "),
        TextMessageEndEvent(message_id="x"),
        ReasoningMessageContentEvent(message_id="x", delta="hm"),
        ReasoningMessageEndEvent(message_id="x"),
        *call("x", OWN, "{}", result="y"),
        TextMessageContentEvent(message_id="x", delta="two"),
    ]
    run = stored(items, finished())
    frames = stream(run, ResponsesEncoder)
    output = data_of(frames[-3])["response"]["output"]
    assert [item["type"] for item in output] == ["message", "reasoning", "mcp_call", "message"]
    assert len({item["id"] for item in output}) == 4
    assert [item["content"][0]["text"] for item in output if item["type"] == "message"] == ["one ", "two"]
    deltas = [data_of(frame) for frame in frames if b"output_text.delta" in frame]
    assert [(delta["item_id"], delta["delta"]) for delta in deltas] == [
        (output[0]["id"], "one "),
        (output[3]["id"], "two"),
    ]


@pytest.mark.parametrize(
    ("reason", "chat", "status"),
    [
        ("stop", "stop", "completed"),
        ("length", "length", "incomplete"),
        ("content-filter", "content_filter", "incomplete"),
        ("tool_calls", "stop", "completed"),
        ("odd", "stop", "completed"),
    ],
)
def test_the_finish_reason_is_one_that_clients_know(reason: str, chat: str, status: str) -> None:
    run = stored(["Hi", CustomEvent(name="gapless.finish", value={"reason": reason})], finished(), CLIENTS)
    assert data_of(stream(run, ChatEncoder)[-3])["choices"][0]["finish_reason"] == chat
    assert data_of(stream(run, ResponsesEncoder)[-3])["response"]["status"] == status


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_run_that_waits_for_a_person_is_one_stream(kind: type[Encoder]) -> None:
    pages = Pages()
    recorder = Recorder(pages, "r1", "s1", Limits())  # type: ignore[arg-type]  # all of a journal that it uses
    recorder.start(1)
    recorder.add("May I? ")
    recorder.pause(finished(RunFinishedInterruptOutcome(interrupts=[Interrupt(id="i", reason="ask")])))
    waiting = stream(Stored(record(), list(pages.events), recorder.fold), kind)[:-1]
    assert b"[DONE]" not in b"".join(waiting)
    recorder.start(2)
    recorder.put(finished())
    frames = stream(Stored(record(), pages.events, recorder.fold), kind)
    assert frames[: len(waiting)] == waiting
    begins = b"response.created" if kind is ResponsesEncoder else b'"role":"assistant","content":""'
    assert sum(begins in frame for frame in frames) == 1
    assert data_of(frames[-2]) == "[DONE]"


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_server_that_ends_the_connection_is_no_end_of_the_answer(kind: type[Encoder]) -> None:
    frame = kind(record()).reconnect(b"5")
    assert frame.startswith(b"event: reconnect\ndata: ")
    assert frame.endswith(b"\nid: 5\n\n")
    assert data_of(frame)["error"]["message"]  # which OpenAI's clients raise


def test_a_run_that_was_started_elsewhere_needs_no_options() -> None:
    plain = RunRecord(id="r1", session_id="s1", user_id="u1", agent="agent", message="Hi", created_at=0)
    run = Stored(plain, stored(["Hi"], finished()).events, Fold())
    for kind in ENCODERS:
        assert data_of(stream(run, kind)[-2]) == "[DONE]"
