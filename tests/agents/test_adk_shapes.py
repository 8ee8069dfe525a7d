"""ADK agents of every shape that ask a person: what follows the answer runs."""

from __future__ import annotations

from typing import Any

import pytest
from google.adk.agents import LlmAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.apps import App, ResumabilityConfig
from google.adk.events import RequestInput
from google.adk.tools import AgentTool, FunctionTool, LongRunningFunctionTool
from google.adk.workflow import START, Workflow

from gapless import Runner
from gapless.events import Interrupt, ResumeEntry, RunFinishedEvent
from gapless.records import RunStatus
from tests.support.adk import Call
from tests.support.adk_runs import agent_of, all_of, text_of

pytestmark = pytest.mark.both_ways

done: list[str] = []


def delete(path: str) -> dict[str, str]:
    """Deletes."""
    done.append(path)
    return {"deleted": path}


def ship() -> dict[str, str]:
    """Ships."""
    return {"status": "pending"}


def asker(name: str = "asker", path: str = "a", ending: str = "Deleted.", last: Any = None) -> LlmAgent:
    return agent_of(
        ["Sure? ", Call("delete", {"path": path}, id=f"c-{name}")],
        [ending, *([last] if last is not None else [])],
        tools=[FunctionTool(delete, require_confirmation=True), *([exit_loop] if last is not None else [])],
        name=name,
    )


def exit_loop(tool_context: Any) -> dict[str, Any]:
    """Leaves the loop."""
    tool_context.actions.escalate = True
    return {}


def single() -> Any:
    return asker()


def sequential() -> Any:
    return SequentialAgent(name="seq", sub_agents=[asker(), agent_of(["After."], name="last")])


def two_questions() -> Any:
    return SequentialAgent(
        name="seq", sub_agents=[asker(), asker("second", "b", "Too."), agent_of(["After."], name="last")]
    )


def nested() -> Any:
    return SequentialAgent(name="outer", sub_agents=[sequential(), agent_of(["At last."], name="end")])


def parallel() -> Any:
    both = ParallelAgent(name="both", sub_agents=[asker(), agent_of(["Beside. "], name="beside")])
    return SequentialAgent(name="seq", sub_agents=[both, agent_of(["After."], name="last")])


def loop() -> Any:
    again = LoopAgent(name="again", max_iterations=2, sub_agents=[asker(), agent_of(["Next. "], name="next")])
    return SequentialAgent(name="seq", sub_agents=[again, agent_of(["After."], name="last")])


def transfer() -> Any:
    root = agent_of([Call("transfer_to_agent", {"agent_name": "asker"}, id="c-tr")], ["?"], name="root")
    return _with(root, asker())


def _with(root: LlmAgent, *subs: LlmAgent) -> LlmAgent:
    return LlmAgent(name=root.name, model=root.model, sub_agents=list(subs))


def long_running() -> Any:
    first = agent_of([Call("ship", id="c-ship")], ["Shipped."], tools=[LongRunningFunctionTool(ship)], name="first")
    return SequentialAgent(name="seq", sub_agents=[first, agent_of(["After."], name="last")])


def agent_tool() -> Any:
    inner = agent_of(["Inner."], name="inner")
    first = agent_of(
        [Call("inner", {"request": "x"}, id="c-in")],
        ["Sure? ", Call("delete", {"path": "a"}, id="c-del")],
        ["Deleted."],
        tools=[AgentTool(inner), FunctionTool(delete, require_confirmation=True)],
        name="first",
    )
    return SequentialAgent(name="seq", sub_agents=[first, agent_of(["After."], name="last")])


def workflow() -> Any:
    def begin(node_input: Any) -> str:
        done.append("begin")
        return "begun"

    async def question(ctx: Any, node_input: Any) -> Any:
        done.append("question")
        yield RequestInput(interrupt_id="q1", message="Sure?", response_schema={"type": "object"})

    def end(node_input: Any) -> dict[str, Any]:
        done.append("end")
        return {"end": node_input}

    return Workflow(name="flow", edges=[(START, begin, question, end)])


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


def answer_to(interrupt: Interrupt) -> ResumeEntry:
    payload: Any = {"approved": True} if (interrupt.metadata or {}).get("kind") == "approval" else {"sure": True}
    return ResumeEntry(interrupt_id=interrupt.id, status="resolved", payload=payload)


async def answered(agent: object) -> str:
    """What a run says in which each question is answered."""
    async with Runner(agent) as runner:
        run = await runner.start("clean up", session_id="s")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent) and getattr(event.outcome, "interrupts", None):
                await run.answer([answer_to(interrupt) for interrupt in event.outcome.interrupts])  # type: ignore[union-attr]
        record = await run.record()
        assert record.status is RunStatus.FINISHED, record
        return text_of(await all_of(run))


@pytest.mark.parametrize(
    ("shape", "text", "effects"),
    [
        (single, "Sure? Deleted.", ["a"]),
        (sequential, "Sure? Deleted.After.", ["a"]),
        (two_questions, "Sure? Deleted.Sure? Too.After.", ["a", "b"]),
        (nested, "Sure? Deleted.After.At last.", ["a"]),
        (loop, "Sure? Deleted.Next. Deleted.Next. After.", ["a"]),
        (transfer, "Sure? Deleted.", ["a"]),
        (long_running, "Shipped.Shipped.After.", []),
        (agent_tool, "Sure? Deleted.After.", ["a"]),
        (workflow, "", ["begin", "question", "end"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_follows_an_answer_runs(shape: Any, text: str, effects: list[str]):
    said = await answered(shape())
    assert (said, done) == (text, effects)


async def test_what_follows_agents_in_parallel_runs_after_the_answer_to_one_of_them():
    said = await answered(parallel())
    assert "Beside. " in said
    assert (said.replace("Beside. ", ""), done) == ("Sure? Deleted.After.", ["a"])


@pytest.mark.parametrize("resumes", [True, False])
async def test_an_apps_own_choice_whether_it_resumes_is_respected(resumes: bool):
    app = App(name="app", root_agent=sequential(), resumability_config=ResumabilityConfig(is_resumable=resumes))
    assert await answered(app) == ("Sure? Deleted.After." if resumes else "Sure? Deleted.")
