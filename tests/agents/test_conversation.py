"""A session's history as model services take it."""

from __future__ import annotations

from typing import Any

import pytest

from gapless.agents.conversation import in_their_places, results_in
from gapless.agents.openai_chat import chat_messages
from gapless.events import (
    AssistantMessage,
    FunctionCall,
    Message,
    ReasoningMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)


def assistant(content: str | None, *calls: str, **metadata: Any) -> AssistantMessage:
    tool_calls = [ToolCall(id=id, function=FunctionCall(name="f", arguments="")) for id in calls]
    return AssistantMessage(id="a", content=content, tool_calls=tool_calls or None, metadata=metadata or None)


def result(id: str) -> ToolMessage:
    return ToolMessage(id=f"r-{id}", tool_call_id=id, content=f"result of {id}")


def test_history_is_sent_complete_and_in_the_order_that_services_take() -> None:
    history: list[Message] = [
        SystemMessage(id="s", content="Be brief."),
        UserMessage(id="u", content="Hi"),
        ReasoningMessage(id="t", content="hm"),
        assistant("Looking.", "answered", "dangling"),
        assistant("Meanwhile."),
        result("answered"),
        result("orphan"),
        assistant("Done."),
        assistant(None, "dangling too"),
        UserMessage(id="u2", content=""),
        UserMessage(id="u3", content="Go on"),
        assistant("Half an", interrupted=True),
    ]
    shown = [(m["role"], m["content"], [c["id"] for c in m.get("tool_calls", ())]) for m in chat_messages(history)]
    assert shown == [
        ("system", "Be brief.", []),
        ("user", "Hi", []),
        ("assistant", "Looking.", ["answered"]),
        ("tool", "result of answered", []),
        ("assistant", "Meanwhile.\nDone.", []),
        ("user", "Go on", []),
        ("assistant", "Half an\n[This answer was cut short here.]", []),
    ]


def brought(id: str, content: str, **metadata: Any) -> ToolMessage:
    return ToolMessage(id=content, tool_call_id=id, content=content, metadata=metadata or None)


def test_a_result_that_comes_late_is_of_the_answer_that_called_for_it() -> None:
    left = ToolMessage(id="none", tool_call_id="c", content="", error="It has no result.")
    left.metadata = {"run_id": "one", "interrupted": True}
    history: list[Message] = [
        UserMessage(id="u", content="Hi", metadata={"run_id": "one"}),
        assistant("Looking.", "a", "b", "c", run_id="one"),
        left,
        UserMessage(id="v", content="", metadata={"run_id": "two"}),
        brought("a", "first", run_id="two"),
        assistant("So.", "a", run_id="two"),
        brought("b", "late"),
        brought("b", "again"),
        brought("a", "second"),
        brought("c", "at last"),
        brought("d", "of nothing"),
    ]
    told = in_their_places(history)
    assert [one.id for one in told] == ["u", "a", "first", "late", "at last", "v", "a", "second", "of nothing"]
    assert [(one.metadata or {}).get("run_id") for one in told] == [*["one"] * 5, *["two"] * 2, None, None]
    assert in_their_places(told) == told
    assert {id: one.content for id, one in results_in(told).items()} == {
        "a": "second",
        "b": "late",
        "c": "at last",
        "d": "of nothing",
    }


@pytest.mark.parametrize("blank", [" ", "\n", "\u2028\u2029\x85"])
def test_blanks_are_told_only_where_they_are_the_question(blank: str) -> None:
    earlier = [UserMessage(id="u", content=blank), assistant("What?"), SystemMessage(id="s", content=blank)]
    question = UserMessage(id="u2", content=blank)
    assert chat_messages([question]) == [{"role": "user", "content": blank}]
    told = chat_messages([UserMessage(id="u0", content="Hi"), *earlier, question])
    assert [(one["role"], one["content"]) for one in told] == [("user", "Hi"), ("assistant", "What?"), ("user", blank)]
    assert chat_messages([UserMessage(id="u", content="")]) == []
