"""The example agents that the makers of the OpenAI Agents SDK publish with its source, imported unchanged.

Each runs on the same scripted model by its own framework, through the runner, and over HTTP through a network that
cuts: the same text, calls, results, typed output and context.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from agents import Agent
from agents import Runner as SDKRunner
from pydantic_core import to_jsonable_python

from gapless import Runner, create_app
from gapless.agents.openai_agents import OpenAIAgent
from gapless.client import ClientLimits, GaplessClient
from gapless.testing import Chunk, Cutter, Output, Reasoning, ToolCall, openai_agents_model, serving, words
from tests.support.outcomes import Outcome, joined, outcome_of_events, value_of
from tests.support.published import (
    OPENAI_SOURCES,
    openai_examples,
    told_on_every_wire,
    whole_wherever_its_worker_is_lost,
)

pytestmark = pytest.mark.both_ways

if not OPENAI_SOURCES:
    pytest.skip("their source is not there: scripts/environment fetches it", allow_module_level=True)


class Example(NamedTuple):
    """An agent of one of the modules in `examples`."""

    module: str
    agent: str
    script: tuple[Chunk, ...]
    """What its model says, and that of the agents that it hands over to."""
    others: dict[str, tuple[Chunk, ...]] = {}  # noqa: RUF012  # read only
    """Scripts of agents that are called as tools."""
    deps: Callable[[Any], Any] = lambda module: None
    says: str = ""
    """Something that the run must have in it: its tools ran."""


REPORT = {"short_summary": "Up.", "markdown_report": "# Up", "follow_up_questions": ["How far?"]}
EXAMPLES = [
    Example(
        "basic.tools",
        "agent",
        (Reasoning("The weather."), *words("I look. "), ToolCall("get_weather", {"city": "Tokyo"}), *words("Sunny.")),
        says="Sunny with wind.",
    ),
    Example(
        "basic.dynamic_system_prompt",
        "agent",
        tuple(words("Why do robots never rest? Beep boop.")),
        deps=lambda module: module.CustomContext(style="robot"),
    ),
    Example(
        "basic.tool_guardrails",
        "agent",
        (
            ToolCall("send_email", {"to": "a@example.test", "subject": "ACME", "body": "Hi"}),
            *words("It was blocked. "),
            ToolCall("get_contact_info", {"user_id": "u1"}),
            *words("That too."),
        ),
        says="Tool call blocked: contains 'ACME'",
    ),
    Example(
        "agent_patterns.agents_as_tools",
        "orchestrator_agent",
        (
            *words("Spanish: "),
            ToolCall("translate_to_spanish", {"input": "Hello"}),
            *words("French: "),
            ToolCall("translate_to_french", {"input": "Hello"}),
            *words("Hola, bonjour."),
        ),
        {"spanish_agent": tuple(words("Hola.")), "french_agent": tuple(words("Bonjour."))},
        says="Bonjour.",
    ),
    Example(
        "agent_patterns.routing",
        "triage_agent",
        (*words("One moment. "), ToolCall("transfer_to_french_agent", {}), *words("On dit bonsoir.")),
        says="french_agent",
    ),
    Example(
        "agent_patterns.deterministic",
        "outline_checker_agent",
        (Output({"good_quality": True, "is_scifi": False}),),
    ),
    Example("financial_research_agent.agents.writer_agent", "writer_agent", (Output(REPORT),)),
    Example(
        "handoffs.message_filter",
        "second_agent",
        (ToolCall("transfer_to_spanish_assistant", {}), *words("Se llama Sora.")),
        says="Spanish Assistant",
    ),
    Example(
        "customer_service.main",
        "triage_agent",
        (
            *words("A seat. "),
            ToolCall("transfer_to_seat_booking_agent", {}),
            *words("I book it. "),
            ToolCall("update_seat", {"confirmation_number": "C1", "new_seat": "14A"}),
            *words("Back to the desk. "),
            ToolCall("transfer_to_triage_agent", {}),
            *words("Anything else?"),
        ),
        deps=lambda module: module.AirlineAgentContext(passenger_name="Ada"),
        says="Updated seat to 14A for confirmation number C1",
    ),
]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ModuleType]]:
    """Imports one of their modules."""
    with openai_examples(tmp_path_factory.mktemp("published")) as load:
        yield load


def scripted(module: ModuleType, example: Example) -> Any:
    """The agent with new models in it and in those beside it."""
    shared = openai_agents_model(*example.script)
    for name, one in vars(module).items():
        if isinstance(one, Agent):
            script = example.others.get(name)
            one.model = shared if script is None else openai_agents_model(*script)
    return getattr(module, example.agent)


async def alone(agent: Any, message: str, deps: Any) -> Outcome:
    """What the SDK's own runner streams."""
    result = SDKRunner.run_streamed(agent, message, context=deps)
    steps: list[tuple[Any, ...]] = []
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            steps.append(("text", event.data.delta))
        elif event.type == "run_item_stream_event":
            item: Any = event.item
            if event.name in ("tool_called", "handoff_requested"):
                steps.append(("call", item.raw_item.name, json.loads(item.raw_item.arguments or "{}")))
            elif event.name == "tool_output":
                steps.append(("result", to_jsonable_python(item.output)))
            elif event.name == "handoff_occured":
                steps.append(("result", value_of(item.raw_item["output"])))
    output = result.final_output
    return Outcome(joined(steps), None if isinstance(output, str) else to_jsonable_python(output))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.module}:{example.agent}")
async def test_it_gives_what_the_sdk_alone_gives(example: Example, examples: Callable[[str], ModuleType]):
    module = examples(example.module)
    before = example.deps(module)
    expected = await alone(scripted(module, example), "Go on.", before)
    assert example.says in json.dumps(expected.said), "its tools ran"
    found = example.deps(module)
    async with Runner(scripted(module, example)) as runner:
        run = await runner.start("Go on.", deps=found)
        assert outcome_of_events([event async for event in run.events()]) == expected
    assert _known(found) == _known(before), "what the tools keep in their context"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.module}:{example.agent}")
async def test_it_is_told_on_every_wire(example: Example, examples: Callable[[str], ModuleType]):
    module = examples(example.module)
    expected = await alone(scripted(module, example), "Go on.", example.deps(module))
    agent = OpenAIAgent(scripted(module, example), deps=lambda ctx: example.deps(module))
    await told_on_every_wire(agent, expected)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.module}:{example.agent}")
async def test_it_goes_on_at_another_worker(example: Example, examples: Callable[[str], ModuleType]):
    module = examples(example.module)
    expected = await alone(scripted(module, example), "Go on.", example.deps(module))

    def make(script: Sequence[Chunk]) -> OpenAIAgent:
        return OpenAIAgent(scripted(module, example._replace(script=tuple(script))), deps=lambda ctx: deps)

    deps = example.deps(module)
    await whole_wherever_its_worker_is_lost(make, example.script, expected)


@pytest.mark.parametrize("kind", ["abrupt", "mid-frame", "clean"])
async def test_a_network_that_cuts_changes_nothing(kind: Any, examples: Callable[[str], ModuleType]):
    example = EXAMPLES[-1]
    module = examples(example.module)
    expected = await alone(scripted(module, example), "Go on.", example.deps(module))
    agent = OpenAIAgent(scripted(module, example), deps=lambda ctx: example.deps(module))
    with serving(create_app(Runner(agent))) as url, Cutter(url, kind, cuts=5) as cutter:
        async with GaplessClient(cutter.url, limits=ClientLimits(retry_first_s=0.001, retry_max_s=0.001)) as client:
            run = await client.start("Go on.")
            assert outcome_of_events([event async for _, event in client.follow(run.id)]) == expected
        assert cutter.cuts[run.id]


def _known(deps: Any) -> Any:
    known = to_jsonable_python(deps)
    return {name: value for name, value in known.items() if name != "flight_number"} if known else known  # at random
