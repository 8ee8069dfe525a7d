"""Agents and answers of every shape: a run says the same whether the SDK is given the deltas or not."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    Model,
    ToolGuardrailFunctionOutput,
    function_tool,
    input_guardrail,
    output_guardrail,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.agent import ToolsToFinalOutputResult
from openai.types import responses as r

from gapless import RunConfig
from gapless.agents.base import Deltas
from gapless.agents.openai_agents import OpenAIAgent
from gapless.testing import ToolCall, openai_agents_model
from tests.support.openai_agents_runs import adapted, ask, look, same
from tests.support.ways import through_the_graph

# -- agents -----------------------------------------------------------------------------------------------------------

TALK = ("Let ", "me ", "look. ", ToolCall("look", {"at": "x" * 60}), "It ", "is ", "seen.")


def talks(**options: Any) -> Agent[Any]:
    return Agent(name="a", model=openai_agents_model(*TALK), **{"tools": [look], **options})


def guarded(**guardrails: Any) -> Agent[Any]:
    @function_tool(name_override="look", **guardrails)
    async def looks(at: str) -> str:
        """Look."""
        return f"seen {at}"

    return talks(tools=[looks])


@input_guardrail(run_in_parallel=False)
async def refuses(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@output_guardrail
async def withholds(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)


@tool_input_guardrail
def refuses_calls(data: Any) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput.raise_exception()


@tool_input_guardrail
def rejects_calls(data: Any) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput.reject_content("not now")


@tool_output_guardrail
def withholds_results(data: Any) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput.raise_exception()


def is_done(context: Any, results: Any) -> ToolsToFinalOutputResult:
    return ToolsToFinalOutputResult(is_final_output=True, final_output="done")


@function_tool(needs_approval=True)
async def delete(at: str) -> str:
    """Delete."""
    return f"deleted {at}"


@function_tool
async def breaks() -> str:
    """Break."""
    raise ValueError("broken")


def within(inner: Agent[Any], **options: Any) -> Agent[Any]:
    """An agent that has `inner` as a tool."""
    tool = inner.as_tool(inner.name, "Help.", **options)
    model = openai_agents_model("I ", "ask. ", ToolCall(inner.name, {"input": "you"}), "So ", "it ", "is.")
    return Agent(name=f"over-{inner.name}", model=model, tools=[tool])


def asking() -> Agent[Any]:
    model = openai_agents_model("Shall ", "I? ", ToolCall("delete", {"at": "all"}), "It ", "is ", "done.")
    return Agent(name="asking", model=model, tools=[delete])


def grows() -> Agent[Any]:
    """An agent that hands over to one which a tool makes in the run."""

    @function_tool
    async def hire() -> str:
        """Hire."""
        model = openai_agents_model(ToolCall("x"), "", ToolCall("x"), "I ", "am ", "new.")
        agent.handoffs.append(Agent(name="hired", model=model))
        return "hired"

    model = openai_agents_model("One ", ToolCall("hire"), "moment. ", ToolCall("transfer_to_hired"))
    agent: Agent[Any] = Agent(name="a", model=model, tools=[hire])
    return agent


def ignores(event: Any) -> None: ...


# -- answers ----------------------------------------------------------------------------------------------------------


class Answers(Model):
    """Gives these events, one list for each request, and raises what stands among them."""

    def __init__(self, *answers: list[Any]) -> None:
        self.left = list(answers)

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it streams")

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for event in self.left.pop(0):
            yield event


def answering(*answers: list[Any]) -> Agent[Any]:
    return Agent(name="a", model=Answers(*answers), tools=[look])


def event(kind: str, at: int = 0, **fields: Any) -> Any:
    return SimpleNamespace(type=f"response.{kind}", output_index=at, **fields)


def text(delta: str, at: int = 0) -> Any:
    return event("output_text.delta", at, delta=delta)


def arguments(delta: str, at: int = 0) -> Any:
    return event("function_call_arguments.delta", at, delta=delta)


def added(item: Any, at: int = 0) -> Any:
    return event("output_item.added", at, item=item)


def message(*parts: Any) -> r.ResponseOutputMessage:
    return r.ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=list(parts))


def says(text: str) -> r.ResponseOutputMessage:
    return message(r.ResponseOutputText(text=text, type="output_text", annotations=[], logprobs=[]))


def call(number: int, arguments: str) -> r.ResponseFunctionToolCall:
    return r.ResponseFunctionToolCall(
        id=f"f{number}", call_id=f"call-{number}", type="function_call", name="look", arguments=arguments
    )


def response(*items: Any) -> r.Response:
    return r.Response.model_construct(id="r", model="m", output=list(items), usage=None, incomplete_details=None)


def completed(*items: Any) -> Any:
    return r.ResponseCompletedEvent.model_construct(type="response.completed", response=response(*items))


CREATED = event("created")
BEGUN = [CREATED, added(message())]
SEEN = [*BEGUN, text("All "), text("seen."), completed(says("All seen."))]
SEARCH = r.ResponseFunctionWebSearch.model_validate(
    {"id": "w", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
)
PING: Any = {"type": "ping"}

ANSWERS: dict[str, list[list[Any]]] = {
    "nothing at all": [[]],
    "nothing but a beginning": [[CREATED]],
    "an empty answer": [[CREATED, completed()]],
    "deltas alone": [[text("a "), text("b"), completed(says("a b"))]],
    "a refusal": [
        [
            *BEGUN,
            *(event("refusal.delta", delta=word) for word in ("I ", "will ", "not.")),
            completed(message(r.ResponseOutputRefusal(type="refusal", refusal="I will not."))),
        ]
    ],
    "events that nobody knows": [
        [CREATED, PING, *BEGUN, text("a "), event("new"), SimpleNamespace(), text("b"), PING, completed(says("a b"))]
    ],
    "two messages": [
        [
            *BEGUN,
            text("a "),
            text("b"),
            added(message(), 1),
            text("c ", 1),
            text("d", 1),
            completed(says("a b"), says("c d")),
        ]
    ],
    "thoughts in parts": [
        [
            CREATED,
            event("reasoning_summary_part.added"),
            event("reasoning_summary_text.delta", delta="Hm. "),
            event("reasoning_summary_part.added"),
            event("reasoning_summary_text.delta", delta="Hm."),
            event("reasoning_text.delta", delta="So."),
            added(message(), 1),
            text("a ", 1),
            text("b", 1),
            completed(says("a b")),
        ]
    ],
    "calls in turns with text": [
        [
            *BEGUN,
            text("I "),
            added(call(1, ""), 1),
            added(call(2, ""), 2),
            arguments('{"at"', 1),
            arguments('{"at":', 2),
            text("look."),
            arguments(':"x"}', 1),
            arguments('"y"}', 2),
            completed(says("I look."), call(1, '{"at":"x"}'), call(2, '{"at":"y"}')),
        ],
        SEEN,
    ],
    "arguments before their call": [
        [CREATED, arguments('{"at"'), added(call(1, "")), arguments(':"x"}'), completed(call(1, '{"at":"x"}'))],
        SEEN,
    ],
    "a search and code": [
        [
            CREATED,
            added(SEARCH),
            event("web_search_call.searching"),
            event("code_interpreter_call_code.delta", 1, delta="1 + 1"),
            added(message(), 2),
            text("a ", 2),
            text("b", 2),
            completed(SEARCH, says("a b")),
        ]
    ],
    "words after the end": [[*BEGUN, text("a "), completed(says("a b")), text("b")]],
}

AGENTS: dict[str, Callable[[], Agent[Any]]] = {
    **{name: functools.partial(answering, *answers) for name, answers in ANSWERS.items()},
    "agents in agents": lambda: within(within(talks(), on_stream=ignores), on_stream=ignores),
    "a question in an agent in an agent": lambda: within(within(asking())),
    "a question after a hand-over": lambda: Agent(
        name="a", model=openai_agents_model("Well. ", ToolCall("transfer_to_asking")), handoffs=[asking()]
    ),
    "a failed agent in an agent": lambda: within(Agent(name="inner", model=Answers([*BEGUN, text("a ")]))),
    "an agent made in the run": grows,
    "one tool ends it": lambda: talks(tool_use_behavior="stop_on_first_tool"),
    "a named tool ends it": lambda: talks(tool_use_behavior={"stop_at_tool_names": ["look"]}),
    "a function ends it": lambda: talks(tool_use_behavior=is_done),
    "a tool that raises": lambda: Agent(
        name="a", model=openai_agents_model("Now. ", ToolCall("breaks"), "Oh ", "no."), tools=[breaks]
    ),
    "a tool that is not there": lambda: talks(tools=[]),
    "a refused message": lambda: talks(input_guardrails=[refuses]),
    "a withheld answer": lambda: talks(output_guardrails=[withholds]),
    "a refused call": lambda: guarded(tool_input_guardrails=[refuses_calls]),
    "a rejected call": lambda: guarded(tool_input_guardrails=[rejects_calls]),
    "a withheld result": lambda: guarded(tool_output_guardrails=[withholds_results]),
}


async def said_by(agent: OpenAIAgent, requests_max: int | None) -> list[str]:
    return same(await ask(agent, run_id="r", session_id="s", config=RunConfig(max_llm_calls=requests_max)))


@pytest.mark.parametrize("requests_max", [None, 1], ids=["", "one request"])
@pytest.mark.parametrize("name", AGENTS)
async def test_what_is_said_is_the_same_either_way(name: str, requests_max: int | None):
    agent = adapted(AGENTS[name]())
    taken = await said_by(agent, requests_max)
    assert agent.deltas == (None if name == "a refused message" else Deltas(at_model=True))
    with pytest.MonkeyPatch.context() as patch:
        through_the_graph(patch)
        assert await said_by(adapted(AGENTS[name]()), requests_max) == taken


async def test_what_nobody_knows_is_passed_over():
    events = await said_by(adapted(AGENTS["events that nobody knows"]()), None)
    assert '"RUN_FINISHED"' in events[-1]
