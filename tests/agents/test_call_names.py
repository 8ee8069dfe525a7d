"""Ids of calls and names of tools, as the providers of models take them."""

from __future__ import annotations

import re

import pytest

from gapless.agents.call_names import call_names
from gapless.events import AssistantMessage, FunctionCall, Message, ToolCall, ToolMessage

TAKEN = {
    "anthropic": r"[a-zA-Z0-9_-]+",
    "aws": r"[a-zA-Z0-9_-]{1,64}",
    "azure": r".{1,40}",
    "mistral": r"[a-zA-Z0-9]{9}",
    "openai": r".{1,40}",
}
IDS = ("call_" + "x" * 60, "functions.look:0", "ü", "a b", "toolu_01", "", "adk-3b241101-e2bb-4255-8caf-4136c566a962")


@pytest.mark.parametrize("provider", TAKEN)
def test_each_call_has_an_id_that_its_provider_takes(provider: str):
    names = call_names([provider])
    told = [names.id(id) for id in IDS]
    assert all(re.fullmatch(TAKEN[provider], id) for id in told), told
    assert len(set(told)) == len(IDS)
    assert [names.id(id) for id in told] == told, "what is taken stays"


def test_what_is_said_of_a_call_and_of_its_result_is_the_same():
    call = ToolCall(id="a b", function=FunctionCall(name="what is it?", arguments="{}"))
    messages: list[Message] = [
        AssistantMessage(id="a", tool_calls=[call]),
        ToolMessage(id="t", tool_call_id="a b", content="seen"),
    ]
    asked, result = call_names(["openai", "anthropic"]).messages(messages)
    assert isinstance(asked, AssistantMessage)
    assert isinstance(result, ToolMessage)
    assert asked.tool_calls is not None
    assert asked.tool_calls[0].id == result.tool_call_id != "a b"
    assert asked.tool_calls[0].function.name == "what_is_it_"
    assert call_names(["openai"]).messages(messages, known=["a b"])[1] == messages[1]


@pytest.mark.parametrize("provider", ["google", "test", "fallback"])
def test_other_providers_are_told_them_as_they_are(provider: str):
    names = call_names([provider])
    assert not names
    assert [names.id(id) for id in IDS] == [*IDS]
    assert names.tool("what is it?") == "what is it?"


def test_a_model_that_may_be_of_several_is_told_what_all_of_them_take():
    names = call_names(["openai", "mistral", "google"])
    assert re.fullmatch("[a-z0-9]{9}", names.id("call_1"))
