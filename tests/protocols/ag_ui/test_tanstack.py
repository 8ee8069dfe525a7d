"""AG-UI messages as TanStack AI's client shows them. That it takes them, its own tests in tests/js show."""

from __future__ import annotations

from gapless.events import (
    AssistantMessage,
    DataSource,
    FunctionCall,
    ImagePart,
    Message,
    ReasoningMessage,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from gapless.protocols.ag_ui.tanstack import to_tanstack


def test_a_conversation():
    image = ImagePart(source=DataSource(value="aGk=", mime_type="image/png"))
    call = ToolCall(id="c", function=FunctionCall(name="look", arguments='{"at": "it"}'))
    odd = ToolCall(id="d", function=FunctionCall(name="look", arguments=""))
    messages: list[Message] = [
        SystemMessage(id="s", content="Be brief"),
        UserMessage(id="u", content=[TextPart(text="What?"), image]),
        ReasoningMessage(id="r", content="hm"),
        AssistantMessage(id="a", content="Let me see.", tool_calls=[call, odd]),
        ToolMessage(id="t", tool_call_id="c", content='{"seen": 1}'),
        ToolMessage(id="x", tool_call_id="of-nobody", content="lost"),
        UserMessage(id="", content=""),
        AssistantMessage(id="b", content="A cat."),
    ]
    arguments = {"name": "look", "arguments": '{"at": "it"}', "input": {"at": "it"}}
    assert to_tanstack(messages) == [
        {
            "id": "u",
            "role": "user",
            "parts": [
                {"type": "text", "content": "What?"},
                {"type": "image", "source": {"type": "data", "value": "aGk=", "mimeType": "image/png"}},
            ],
        },
        {
            "id": "a",
            "role": "assistant",
            "parts": [
                {"type": "thinking", "content": "hm"},
                {"type": "text", "content": "Let me see."},
                {"type": "tool-call", "id": "c", **arguments, "state": "complete", "output": {"seen": 1}},
                {
                    "type": "tool-call",
                    "id": "d",
                    "name": "look",
                    "arguments": "",
                    "input": {},
                    "state": "input-complete",
                },
                {"type": "tool-result", "toolCallId": "c", "content": '{"seen": 1}', "state": "complete"},
            ],
        },
        {"id": "b", "role": "assistant", "parts": [{"type": "text", "content": "A cat."}]},
    ]
