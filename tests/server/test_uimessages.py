"""The AI SDK's UI messages as AG-UI messages."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gapless.errors import InputInvalid
from gapless.server.uimessages import UIMessage, approvals, to_messages


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
