"""The AI SDK's UI messages as AG-UI messages."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gapless.errors import InputInvalid
from gapless.events import (
    AssistantMessage,
    CustomEvent,
    DataSource,
    Event,
    FileSource,
    FunctionCall,
    ImagePart,
    Message,
    RunFinishedEvent,
    RunStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TextPart,
    ToolCall,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
    encode_event,
)
from gapless.protocols.vercel.messages import RESULTS, Transcript, UIMessage, approvals, remains, results, to_messages
from gapless.records import RunRecord


def convert(role: Any, *parts: dict[str, Any]) -> list[Any]:
    messages: list[Any] = msgspec.to_builtins(to_messages([UIMessage(id="m", role=role, parts=list(parts))]))
    return messages


def tool(state: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool-weather", "toolCallId": "c", "state": state, "input": {"a": 1}, **more}


CALL = {"id": "c", "function": {"name": "weather", "arguments": '{"a":1}'}, "type": "function"}


def test_text():
    text = {"type": "text", "text": "hi"}
    assert convert("user", text, text) == [{"role": "user", "id": "m", "content": "hihi"}]
    assert convert("system", text) == [{"role": "system", "id": "m", "content": "hi"}]
    assert convert("assistant", text) == [{"role": "assistant", "id": "m-0", "content": "hi"}]


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [("image/png", "image"), ("audio/wav", "audio"), ("video/mp4", "video"), ("application/pdf", "document")],
)
def test_files_of_a_user(media_type: str, kind: str):
    at = {"type": "file", "mediaType": media_type, "url": "https://example.org/x", "filename": "x"}
    inline = {"type": "file", "mediaType": media_type, "url": f"data:{media_type};base64,AAEC"}
    (message,) = convert("user", {"type": "text", "text": "see"}, at, inline)
    assert message["content"] == [
        {"type": "text", "text": "see"},
        {
            "type": kind,
            "source": {"type": "url", "value": "https://example.org/x", "mimeType": media_type},
            "metadata": {"filename": "x"},
        },
        {"type": kind, "source": {"type": "data", "value": "AAEC", "mimeType": media_type}},
    ]


def test_a_data_url_need_not_be_base64():
    (message,) = convert("user", {"type": "file", "mediaType": "text/plain", "url": "data:text/plain,a%20b"})
    assert message["content"][0]["source"]["value"] == "YSBi"


@pytest.mark.parametrize("url", ["data:image/png;base64,*", "data:nothing"])
def test_a_malformed_data_url_is_refused(url: str):
    with pytest.raises(InputInvalid, match="message m"):
        convert("user", {"type": "file", "mediaType": "image/png", "url": url})


def test_an_assistants_steps():
    step, text = {"type": "step-start"}, {"type": "text", "text": "so"}
    thought = {"type": "reasoning", "text": "hm"}
    told = convert("assistant", step, thought, text, tool("output-available", output={"b": 2}), step, text)
    assert told == [
        {"role": "reasoning", "id": "m-r0", "content": "hm"},
        {"role": "assistant", "id": "m-1", "content": "so", "toolCalls": [CALL]},
        {"role": "tool", "id": "c-result", "content": '{"b":2}', "toolCallId": "c"},
        {"role": "assistant", "id": "m-3", "content": "so"},
    ]


@pytest.mark.parametrize(
    ("part", "result"),
    [
        (tool("output-available", output="text"), {"content": "text"}),
        (tool("output-error", errorText="no"), {"content": "no", "error": "no"}),
        (tool("output-denied"), {"content": "the user denied this call"}),
    ],
)
def test_results(part: dict[str, Any], result: dict[str, Any]):
    call, told = convert("assistant", part)
    assert call["toolCalls"] == [CALL]
    assert told == {"role": "tool", "id": "c-result", "toolCallId": "c", **result}


@pytest.mark.parametrize("state", ["input-streaming", "input-available", "approval-requested", "approval-responded"])
def test_a_call_without_a_result_is_left_out(state: str):
    assert convert("assistant", tool(state)) == []


def test_a_dynamic_tool_has_its_name_beside_it():
    call, _ = convert("assistant", tool("output-available", output=1) | {"type": "dynamic-tool", "toolName": "weather"})
    assert call["toolCalls"] == [CALL]


def test_approvals():
    parts = [
        tool("approval-responded", approval={"id": "1", "approved": True, "reason": "fine"}),
        tool("approval-responded", approval={"id": "2", "approved": False}),
        tool("approval-requested", approval={"id": "3"}),
        {"type": "text", "text": "x"},
    ]
    answers = approvals(UIMessage(id="m", role="assistant", parts=parts))
    assert [(one.interrupt_id, one.status, one.payload) for one in answers] == [
        ("1", "resolved", {"approved": True, "reason": "fine"}),
        ("2", "resolved", {"approved": False}),
    ]


@pytest.mark.parametrize(
    ("role", "part", "key"),
    [
        ("user", {"type": "text", "text": None}, "text"),
        ("user", {"type": "file", "mediaType": "image/png", "url": 1}, "url"),
        ("system", {"type": "text", "text": ["hi"]}, "text"),
        ("assistant", {"type": "reasoning", "text": {}}, "text"),
        ("assistant", tool("output-available", toolCallId=7, output=1), "toolCallId"),
        ("assistant", tool("output-error", errorText=False), "errorText"),
        ("assistant", tool("output-available", type="dynamic-tool", toolName=None, output=1), "toolName"),
    ],
)
def test_what_must_be_a_string_is_refused_otherwise(role: str, part: dict[str, Any], key: str):
    with pytest.raises(InputInvalid, match=f"message m: {key} "):
        convert(role, part)


def record(id: str = "r") -> RunRecord:
    return RunRecord(id=id, session_id="s", user_id="u", agent="a", message="", created_at=0)


def parts_of(*events: Event) -> list[dict[str, Any]]:
    """What a page has of a run's answer."""
    transcript = Transcript()
    transcript.begin(record())
    for event in (RunStartedEvent(thread_id="s", run_id="r"), *events):  # one by one, as pages of a journal may come
        transcript.add([encode_event(event)])
    (message,) = transcript.messages
    assert (message["id"], message["role"], message["metadata"]["runId"]) == ("r", "assistant", "r")
    assert message["parts"][0] == {"type": "step-start"}
    parts: list[dict[str, Any]] = message["parts"]
    return parts[1:]


def saying(text: str) -> list[Event]:
    return [
        TextMessageStartEvent(message_id=text),
        TextMessageContentEvent(message_id=text, delta=text),
        TextMessageEndEvent(message_id=text),
    ]


def calling(arguments: str) -> list[Event]:
    return [
        ToolCallStartEvent(tool_call_id="c", tool_call_name="weather"),
        ToolCallArgsEvent(tool_call_id="c", delta=arguments),
        ToolCallEndEvent(tool_call_id="c"),
    ]


def test_arguments_that_are_no_json():
    error = {"state": "output-error", "input": "{no", "errorText": "the arguments are not JSON"}
    assert parts_of(*calling("{no")) == [{"type": "tool-weather", "toolCallId": "c", **error}]


def test_what_came_before_a_restart_is_void():
    restarted = CustomEvent(name="gapless.restarted", value={"restarts": 1})
    own = CustomEvent(name="restarted", value="gapless.restarted")
    said = parts_of(*saying("void"), *calling("{}"), restarted, own, *saying("anew"))
    assert said == [
        {"type": "data-restarted", "data": "gapless.restarted"},
        {"type": "text", "text": "anew", "state": "done"},
    ]


def test_data_with_an_id_takes_the_place_of_what_was_there():
    steps = [CustomEvent(name="beat", value=n) for n in (1, 1)]
    found = ToolCallResultEvent(message_id="m", tool_call_id="of another message", content="x")
    assert [part["type"] for part in parts_of(*steps, found)] == ["data-beat", "data-beat", "data-tool-result"]


def test_a_users_message_as_a_page_has_it():
    transcript = Transcript()
    picture = ImagePart(source=DataSource(value="AAEC", mime_type="image/png"), metadata={"filename": "a.png"})
    stored = ImagePart(source=FileSource(value="file-1"))
    transcript.ask(UserMessage(id="m", content=[picture, TextPart(text="see"), stored]))
    (message,) = transcript.messages
    assert (message["id"], message["role"]) == ("m", "user")
    assert message["parts"] == [
        {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAEC", "filename": "a.png"},
        {"type": "text", "text": "see"},
        {"type": "file", "mediaType": "application/octet-stream", "url": "file-1"},
    ]


def test_a_run_that_goes_on_from_the_clients_tools_is_of_the_same_message():
    transcript = Transcript()
    transcript.begin(record())
    transcript.add([encode_event(event) for event in (RunStartedEvent(thread_id="s", run_id="r"), *calling("{}"))])
    answered = {"toolCallId": "c", "state": "output-error", "errorText": "no"}
    going_on = UserMessage(id="", content="", metadata={"vercel_message_id": "r", RESULTS: [answered]})
    transcript.ask(going_on)
    transcript.begin(msgspec.structs.replace(record("later"), input=going_on))
    ending = RunFinishedEvent(thread_id="s", run_id="later", result={"a": {"b": 1}})
    events = [RunStartedEvent(thread_id="s", run_id="later"), *saying("so"), ending]
    transcript.add([encode_event(event) for event in events])
    (message,) = transcript.messages
    assert [part["type"] for part in message["parts"]] == ["step-start", "tool-weather", "step-start", "text"]
    assert message["parts"][1] == {"type": "tool-weather", "input": {}, **answered}
    assert message["metadata"] == {"runId": "later", "sessionId": "s", "result": {"a": {"b": 1}}}


def test_results_of_calls_that_have_none():
    call = ToolCall(id="c", function=FunctionCall(name="weather", arguments="{}"))
    asked: Message = AssistantMessage(id="a", tool_calls=[call])
    told = UIMessage(id="m", role="assistant", parts=[tool("output-available", output=1)])
    found = [{"toolCallId": "c", "state": "output-available", "output": 1}]
    assert results([told], [asked]) == found
    assert results([told], [asked, ToolMessage(id="t", tool_call_id="c", content="")]) == []
    assert results([told], [asked, UserMessage(id="u", content="", metadata={RESULTS: found})]) == []
    assert (
        results([told], [])
        == results([UIMessage(id="m", role="assistant", parts=[tool("input-available")])], [asked])
        == []
    )


@pytest.mark.parametrize(("code", "shown"), [("agent_failed", True), ("run_cancelled", False)])
def test_what_remains_of_a_run_says_how_it_ended(code: str, shown: bool):
    error = {"code": code, "message": "so"}
    cut = AssistantMessage(id="a", content="cut", metadata={"run_id": "r", "interrupted": True, "error": error})
    transcript = Transcript()
    transcript.begin(record())
    transcript.add(remains(record(), [cut]))
    (message,) = transcript.messages
    assert message["parts"][1:] == [{"type": "text", "text": "cut", "state": "done"}]
    assert message["metadata"] == {"runId": "r", "sessionId": "s", **({"error": error} if shown else {})}
