"""Runs of ADK agents go on at another worker, from every step on, for every shape of agent."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.adk.agents import LlmAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.events import RequestInput
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.sessions import BaseSessionService, InMemorySessionService
from google.adk.tools import AgentTool, FunctionTool, LongRunningFunctionTool
from google.adk.workflow import START, Workflow
from google.genai import types

import gapless
from gapless import RunConfig, Runner, StreamingMode
from gapless.agents.adk import ADKAgent
from gapless.agents.base import RunContext
from gapless.errors import InputInvalid
from gapless.events import Event, Interrupt, ResumeEntry, RunFinishedEvent
from gapless.fold import Fold
from gapless.journals.memory import Memory, MemoryStore
from gapless.records import RunRecord, RunStatus
from tests.support.adk import Call
from tests.support.waiting import WAIT_S, at_rest, until

pytestmark = pytest.mark.both_ways

done: Counter[str] = Counter()
"""What was done in the world, and which model was asked what: by name."""


class Told(BaseLlm):
    """Answers by what it is told, so that any worker's instance does the same: the n-th script, where n is the number
    of its own answers that it sees."""

    model: str = "told"
    who: str
    scripts: list[list[Any]]

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        number = sum(1 for content in llm_request.contents if content.role == "model")
        number = min(number, len(self.scripts) - 1)
        done[f"{self.who} {number}"] += 1
        text, parts = "", list[types.Part]()
        for step in self.scripts[number]:
            await asyncio.sleep(0)
            if isinstance(step, str):
                part, text = types.Part(text=step), text + step
            else:
                call = types.FunctionCall(name=step.name, args=dict(step.args or {}), id=step.id)
                part = types.Part(function_call=call)
                parts.append(part)
            if stream:
                yield LlmResponse(content=types.Content(role="model", parts=[part]), partial=True)
        if text:
            parts.insert(0, types.Part(text=text))
        yield LlmResponse(content=types.Content(role="model", parts=parts), partial=False)


def agent(name: str, *scripts: list[Any], tools: list[Any] | None = None, **more: Any) -> LlmAgent:
    return LlmAgent(name=name, model=Told(who=name, scripts=list(scripts)), tools=tools or [], **more)


async def look() -> dict[str, int]:
    """Looks."""
    done["look"] += 1
    return {"seen": 1}


def weigh(tool_context: Any) -> dict[str, int]:
    """Weighs."""
    done["weigh"] += 1
    tool_context.state["weight"] = 7
    return {"weight": 7}


def delete(path: str) -> dict[str, str]:
    """Deletes."""
    done[f"delete {path}"] += 1
    return {"deleted": path}


def ship() -> dict[str, str]:
    """Ships."""
    done["ship"] += 1
    return {"status": "pending"}


def leave(tool_context: Any) -> dict[str, str]:
    """Leaves the loop."""
    done["leave"] += 1
    tool_context.actions.escalate = True
    return {}


def single(name: str = "worker", last: str = "Done.") -> LlmAgent:
    both = [Call("look", {}, id=f"c-look-{name}"), Call("weigh", {}, id=f"c-weigh-{name}")]
    return agent(
        name, ["Let me ", "see. ", *both], ["And ", Call("look", {}, id=f"c-2-{name}")], [last], tools=[look, weigh]
    )


def confirms(name: str = "asker", path: str = "a") -> LlmAgent:
    calls = [Call("look", {}, id=f"c-look-{name}"), Call("delete", {"path": path}, id=f"c-del-{name}")]
    tools = [look, FunctionTool(delete, require_confirmation=True)]
    return agent(name, ["Sure? ", *calls], ["Deleted. "], tools=tools)


def confirms_and_ships(name: str = "both") -> LlmAgent:
    calls = [Call("delete", {"path": name}, id=f"c-del-{name}"), Call("ship", {}, id=f"c-ship-{name}")]
    tools = [LongRunningFunctionTool(ship), FunctionTool(delete, require_confirmation=True)]
    return agent(name, ["Sure? ", *calls], ["Both. "], tools=tools)


def parallel_asks_both() -> SequentialAgent:
    both = ParallelAgent(name="both", sub_agents=[confirms_and_ships("left"), confirms_and_ships("right")])
    return SequentialAgent(name="seq", sub_agents=[both, agent("last", ["After."])])


def transfer() -> LlmAgent:
    return agent("root", [Call("transfer_to_agent", {"agent_name": "worker"}, id="c-tr")], sub_agents=[single()])


def transfer_asks() -> LlmAgent:
    return agent("root", [Call("transfer_to_agent", {"agent_name": "asker"}, id="c-tr")], sub_agents=[confirms()])


def sequential() -> SequentialAgent:
    return SequentialAgent(name="seq", sub_agents=[single(), confirms(), agent("last", ["After."])])


def parallel() -> SequentialAgent:
    both = ParallelAgent(name="both", sub_agents=[single("left", "Left. "), single("right", "Right. ")])
    return SequentialAgent(name="seq", sub_agents=[both, agent("last", ["After."])])


def parallel_asks() -> SequentialAgent:
    both = ParallelAgent(name="both", sub_agents=[confirms("left", "a"), confirms("right", "b")])
    return SequentialAgent(name="seq", sub_agents=[both, agent("last", ["After."])])


def loop() -> SequentialAgent:
    writer = agent("writer", ["One. "], ["Two. "], ["Three. "])
    judge = agent("judge", ["No. "], ["Yes. ", Call("leave", {}, id="c-leave")], ["Bye. "], tools=[leave])
    return SequentialAgent(
        name="seq",
        sub_agents=[LoopAgent(name="again", max_iterations=4, sub_agents=[writer, judge]), agent("last", ["After."])],
    )


def long_running() -> LlmAgent:
    calls = [Call("ship", {}, id="c-ship"), Call("look", {}, id="c-look")]
    return agent("worker", calls, ["Ordered. "], ["Shipped."], tools=[LongRunningFunctionTool(ship), look])


def agent_tool() -> LlmAgent:
    scripts = ["Hm. ", Call("look", {})], ["So. ", Call("weigh", {})], ["Inner."]
    inner = agent("inner", *scripts, tools=[look, weigh])
    return agent("outer", [Call("inner", {"request": "x"}, id="c-inner")], ["Outer."], tools=[AgentTool(inner)])


def workflow() -> Workflow:
    def begin(node_input: Any) -> str:
        done["begin"] += 1
        return "begun"

    async def question(ctx: Any, node_input: Any) -> Any:
        yield RequestInput(interrupt_id="q1", message="Sure?", response_schema={"type": "object"})

    def end(node_input: Any) -> dict[str, Any]:
        done["end"] += 1
        return {"end": node_input}

    return Workflow(name="flow", edges=[(START, begin, single(), question, end)])


SHAPES: list[Callable[[], Any]] = [
    single,
    confirms,
    confirms_and_ships,
    transfer,
    transfer_asks,
    sequential,
    parallel,
    parallel_asks,
    parallel_asks_both,
    loop,
    long_running,
    agent_tool,
    workflow,
]


class Place:
    """A store in memory and the workers on it, one after the other. `lose_at` is the save at which one is lost, before
    or after it is accepted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = Memory()
        self.now = 0.0
        self.saves = 0
        self.lose_at: int | None = None
        self.accepted = True
        self.lost = asyncio.Event()
        self.gone: RunContext | None = None
        save = RunContext.save

        async def counted(ctx: RunContext, data: bytes, *, half: Collection[str] = (), leave: bool = True) -> None:
            if ctx is self.gone:
                await asyncio.Event().wait()
            self.saves += 1
            lost = self.saves == self.lose_at
            if self.accepted or not lost:
                await save(ctx, data, half=half, leave=leave)
            if lost:
                self.gone = ctx
                self.lost.set()
                await asyncio.Event().wait()

        monkeypatch.setattr(RunContext, "save", counted)

    def record(self) -> RunRecord:
        return self.memory.runs["r"]

    async def worker(self, agent: Any, **options: Any) -> Runner:
        store = MemoryStore(self.memory, monotonic=lambda: self.now)
        return await Runner(agents={"agent": agent}, store=store, lease_s=1000, **options).open()

    async def lose(self, lost: Runner, other: Runner) -> None:
        await lost._keeper.close()
        for _ in range(6):
            self.now += 250
            await other.sweep()
        lost.worker.on_fenced()
        await until(lambda: not lost.executions, "what was lost has stopped")


def answers(interrupts: list[Interrupt], approved: bool) -> list[ResumeEntry]:
    found = []
    for interrupt in interrupts:
        kind = (interrupt.metadata or {}).get("kind")
        payload: Any = {"approved": approved} if kind == "approval" else {"status": "delivered"}
        found.append(ResumeEntry(interrupt_id=interrupt.id, status="resolved", payload=payload))
    return found


async def answer_all(runner: Runner, run_id: str = "r", *, approved: bool = True) -> list[Event]:
    """Follow the run to its end and answer what it asks."""
    events: list[Event] = []
    run = await runner.attach(run_id)
    async for event in run.events():
        events.append(event)
        asked = getattr(event.outcome, "interrupts", None) if isinstance(event, RunFinishedEvent) else None
        if asked and (await run.record()).status is RunStatus.WAITING:
            with contextlib.suppress(InputInvalid):  # an earlier question: it waits for another one
                await run.answer(answers(asked, approved))
    return events


def said(events: list[Event]) -> list[str]:
    """Who says what, after all that was taken back, and which calls were made and answered, in any order."""
    fold = Fold()
    for event in events:
        fold.add(event)
    found = []
    for message in fold.messages():
        if message.content:
            found.append(f"{getattr(message, 'name', None) or getattr(message, 'tool_call_id', '')}: {message.content}")
        found += [f"{call.id} {call.function.arguments}" for call in getattr(message, "tool_calls", None) or []]
    return sorted(found)


async def run_through(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Counter[str], int]:
    place = Place(monkeypatch)
    runner = await place.worker(make())
    await runner.start("clean up", session_id="s", run_id="r", agent="agent")
    events = await answer_all(runner)
    assert place.record().status is RunStatus.FINISHED, place.record()
    await runner.close()
    effects, saves = Counter(done), place.saves
    done.clear()
    monkeypatch.undo()
    return said(events), effects, saves


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    done.clear()


@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
async def test_a_run_that_is_lost_at_any_step_says_and_does_the_same(make: Any, monkeypatch: pytest.MonkeyPatch):
    whole, effects, saves = await run_through(make, monkeypatch)
    in_flight = 2 if "parallel" in make.__name__ else make.__name__ in ("long_running", "workflow")
    wrong = []
    for lose_at in range(1, saves + 1, 1 + saves // 8):
        done.clear()
        place = Place(monkeypatch)
        place.lose_at = lose_at
        first, second = await place.worker(make()), await place.worker(make())
        await first.start("clean up", session_id="s", run_id="r", agent="agent")
        following = asyncio.create_task(answer_all(first))
        await asyncio.wait_for(place.lost.wait(), WAIT_S)
        following.cancel()
        await place.lose(first, second)
        events = await asyncio.wait_for(answer_all(second), WAIT_S)
        if place.record().status is not RunStatus.FINISHED:
            wrong.append((lose_at, place.record().error))
        elif said(events) != whole or effects - done or max((done - effects).values(), default=0) > in_flight:
            extra, lacking = Counter(said(events)) - Counter(whole), Counter(whole) - Counter(said(events))
            wrong.append((lose_at, dict(extra), dict(lacking), dict(done - effects), dict(effects - done)))
        await first.close()
        await second.close()
        monkeypatch.undo()
    assert not wrong, "\n".join(map(str, [whole, *wrong]))


# -- sessions of the user's own service --------------------------------------------------------------------------------


async def in_memory(folder: Path) -> list[BaseSessionService]:
    return [InMemorySessionService()] * 2


async def in_a_database(folder: Path) -> list[BaseSessionService]:
    """One for each worker, as in two processes."""
    pytest.importorskip("sqlalchemy", reason="an environment from before it was among the tests' packages")
    from google.adk.sessions.database_session_service import DatabaseSessionService

    url = f"sqlite+aiosqlite:///{folder / f'{uuid.uuid4()}.db'}"
    return [DatabaseSessionService(url), DatabaseSessionService(url)]


@pytest.mark.parametrize("accepted", [True, False], ids=["saved", "not saved"])
@pytest.mark.parametrize(
    ("services", "make", "every"),
    [
        *(
            (in_memory, make, every)
            for make, every in [(single, 3), (confirms, 1), (confirms_and_ships, 1), (long_running, 2), (workflow, 5)]
        ),
        *((in_a_database, make, every) for make, every in [(single, 5), (confirms, 3), (sequential, 11)]),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
async def test_what_a_session_service_has_beyond_the_checkpoint_is_not_done_again(
    services: Any, make: Any, every: int, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, effects, _ = await run_through(make, monkeypatch)
    wrong = []
    in_flight = make is not single
    for lose_at in range(1, 60, every):
        done.clear()
        place, (service, own) = Place(monkeypatch), await services(tmp_path)
        place.lose_at, place.accepted = lose_at, accepted
        first, second = [await place.worker(make(), session_service=one) for one in (own, service)]
        await first.start("clean up", session_id="s", run_id="r", agent="agent")
        following = asyncio.create_task(answer_all(first))
        lost = asyncio.create_task(place.lost.wait())
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait({lost, following}, return_when=asyncio.FIRST_COMPLETED)
        if lost.done():
            following.cancel()
            await place.lose(first, second)
            events = await asyncio.wait_for(answer_all(second), WAIT_S)
            session = await service.get_session(app_name="agent", user_id="anonymous", session_id="s")
            assert session is not None
            ids = [event.id for event in session.events]
            calls = Counter(call.id for event in session.events for call in event.get_function_calls())
            results = Counter(
                str(result)
                for event in session.events
                if event.author != "user"
                for result in event.get_function_responses()
            )
            twice = [found for found in (*Counter(ids).items(), *calls.items(), *results.items()) if found[1] > 1]
            extra, lacking = Counter(said(events)) - Counter(whole), Counter(whole) - Counter(said(events))
            again = max((done - effects).values(), default=0)
            if extra or lacking or twice or effects - done or again > in_flight:
                wrong.append((lose_at, extra, lacking, done - effects, effects - done, twice, place.record().error))
        await first.close()
        await second.close()
        monkeypatch.undo()
        for one in (service, own) if services is in_a_database else ():
            await one.close()
        if not lost.done():
            lost.cancel()
            break
    assert not wrong, "\n".join(map(str, wrong))


# -- what is kept beside the events ------------------------------------------------------------------------------------


async def lost_and_found(
    make: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    at_save: int | None = None,
    approved: bool = True,
    **options: Any,
) -> tuple[Place, Runner, list[Event]]:
    """Run it on a worker that is lost where it stands still, at this save or else as it pays, and to its end on
    another."""
    place = Place(monkeypatch)
    place.lose_at = at_save
    first, second = await place.worker(make()), await place.worker(make())
    await first.start("clean up", session_id="s", run_id="r", agent="agent", **options)
    await until(lambda: place.lost.is_set() if at_save else done["pay"], "it stands still")
    place.gone = first.executions["r"]._context
    await place.lose(first, second)
    events = await asyncio.wait_for(answer_all(second, approved=approved), WAIT_S)
    await first.close()
    return place, second, events


def pays(repeatable: Any, on_tool: bool) -> Callable[[], LlmAgent]:
    def make() -> LlmAgent:
        async def pay(amount: int, tool_context: Any) -> dict[str, str]:
            """Pays."""
            done["pay"] += 1
            if done["pay"] == 1:
                await asyncio.Event().wait()  # until the worker is lost
            assert gapless.call_key(tool_context.function_call_id) == "r:c-pay"
            return {"paid": str(amount)}

        tool = FunctionTool(pay)
        if on_tool:
            tool.custom_metadata = {"repeatable": repeatable}
        else:
            pay.repeatable = repeatable  # type: ignore[attr-defined]
        return agent("payer", [Call("pay", {"amount": 5}, id="c-pay")], ["Well."], tools=[tool])

    return make


@pytest.mark.parametrize(
    ("repeatable", "on_tool", "paid", "result"),
    [
        (True, True, 2, "paid"),
        (False, True, 1, "unknown whether"),
        (False, False, 1, "unknown whether"),
        ("ask", True, 2, "paid"),
    ],
)
async def test_a_call_that_was_under_way_is_made_again_or_not(
    repeatable: Any, on_tool: bool, paid: int, result: str, monkeypatch: pytest.MonkeyPatch
):
    make = pays(repeatable, on_tool)
    _, second, events = await lost_and_found(make, monkeypatch)
    async with second:
        assert done["pay"] == paid
        assert [result in text for text in said(events) if text.startswith("c-pay:")] == [True]
        asked = [event for event in events if getattr(getattr(event, "outcome", None), "interrupts", None)]
        assert len(asked) == (repeatable == "ask")
        assert "payer: Well." in said(events)


class PayerTool(AgentTool):
    """Is confirmed before its agent runs."""

    async def check_require_confirmation(self, args: dict[str, Any], tool_context: Any) -> bool:
        return True


async def lost_once_answered(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, *, again: bool = True
) -> list[Event]:
    """Answer what the run asks, lose its worker where it pays, and run it to its end on another, which may do what it
    asks about or not."""
    place = Place(monkeypatch)
    first, second = await place.worker(make()), await place.worker(make())
    await first.start("clean up", session_id="s", run_id="r", agent="agent")
    following = asyncio.create_task(answer_all(first))
    await until(lambda: done["pay"], "it pays")
    await at_rest()  # what has returned beside it is saved
    place.gone = first.executions["r"]._context
    following.cancel()
    await place.lose(first, second)
    events = await asyncio.wait_for(answer_all(second, approved=again), WAIT_S)
    await first.close()
    await second.close()
    assert place.record().status is RunStatus.FINISHED, place.record()
    return events


@pytest.mark.parametrize("confirms", [True, False])
@pytest.mark.parametrize("repeatable", [True, False, "ask"])
@pytest.mark.parametrize("names", ["see pay", "pay see", "see pay see"])
async def test_a_call_that_has_returned_is_not_made_again_while_another_is(
    names: str, repeatable: Any, confirms: bool, monkeypatch: pytest.MonkeyPatch
):
    async def see() -> dict[str, str]:
        """Sees."""
        done["see"] += 1
        return {"seen": "all"}

    async def pay() -> dict[str, str]:
        """Pays."""
        done["pay"] += 1
        if done["pay"] == 1:
            await asyncio.Event().wait()  # until the worker is lost
        return {"paid": "all"}

    def make() -> LlmAgent:
        tools = [FunctionTool(see, require_confirmation=confirms), FunctionTool(pay, require_confirmation=confirms)]
        tools[0].custom_metadata = {"repeatable": repeatable}
        calls = [Call(name, {}, id=f"c-{number}-{name}") for number, name in enumerate(names.split())]
        return agent("payer", calls, ["Well."], tools=tools)

    events = await lost_once_answered(make, monkeypatch)
    assert done == {"payer 0": 1, "payer 1": 1, "see": names.count("see"), "pay": 2}
    results = [text for text in said(events) if text.startswith("c-") and ": " in text]
    results_of = {"see": '{"seen":"all"}', "pay": '{"paid":"all"}'}
    assert results == sorted(f"c-{number}-{name}: {results_of[name]}" for number, name in enumerate(names.split()))


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("others", [[], [Call("see", {}, id="c-see")]])
@pytest.mark.parametrize("inner", [False, True])
async def test_a_person_is_asked_about_a_confirmed_call(
    inner: bool, others: list[Call], again: bool, monkeypatch: pytest.MonkeyPatch
):
    async def see() -> dict[str, str]:
        """Sees."""
        done["see"] += 1
        return {"seen": "all"}

    def make() -> LlmAgent:
        payer = pays("ask", True)()
        if inner:
            tool: Any = PayerTool(payer)
            calls = [Call("payer", {"request": "x"}, id="c-pay"), *others]
        else:
            tool = payer.tools[0]
            tool._require_confirmation = True
            calls = [Call("pay", {"amount": 5}, id="c-pay"), *others]
        return agent("outer", calls, ["Over."], tools=[tool, FunctionTool(see, require_confirmation=True)])

    lost = await lost_once_answered(make, monkeypatch, again=again)
    questions = [one for event in lost for one in getattr(getattr(event, "outcome", None), "interrupts", None) or ()]
    assert [one.message for one in questions[1 + len(others) :]] == [
        "The server was lost while pay ran. It may have taken effect. Run it again?"
    ]
    assert (questions[-1].tool_call_id, questions[-1].metadata["kind"]) == ("c-pay", "approval")  # type: ignore[index]
    assert done["pay"] == 1 + again
    assert done["see"] == len(others)
    results = [text for text in said(lost) if text.startswith("c-pay: ")]
    assert len(results) == 1
    if not inner:
        assert ("paid" in results[0], "unknown whether" in results[0]) == (again, not again)
    assert "outer: Over." in said(lost)


@pytest.mark.parametrize("confirm", [True, False])
async def test_a_person_is_asked_each_time_that_a_call_is_lost(confirm: bool, monkeypatch: pytest.MonkeyPatch):
    async def pay() -> dict[str, str]:
        """Pays."""
        done["pay"] += 1
        if done["pay"] < 3:
            await asyncio.Event().wait()  # until the worker is lost
        return {"paid": "all"}

    def make() -> LlmAgent:
        tool = FunctionTool(pay, require_confirmation=confirm)
        tool.custom_metadata = {"repeatable": "ask"}
        return agent("payer", [Call("pay", {}, id="c-pay")], ["Well."], tools=[tool])

    place = Place(monkeypatch)
    runner = await place.worker(make())
    await runner.start("clean up", session_id="s", run_id="r", agent="agent")
    following = asyncio.create_task(answer_all(runner))
    for lost in (1, 2):
        await until(lambda lost=lost: done["pay"] == lost, "it pays")  # type: ignore[misc]
        following.cancel()
        place.gone = runner.executions["r"]._context
        other = await place.worker(make())
        await place.lose(runner, other)
        await until(lambda: place.record().status is RunStatus.WAITING, "it asks")
        await runner.close()
        await other.close()  # while it asks
        assert done["pay"] == lost
        runner = await place.worker(make())
        following = asyncio.create_task(answer_all(runner))
    events = await asyncio.wait_for(following, WAIT_S)
    assert place.record().status is RunStatus.FINISHED, place.record()
    asked = [one.message for event in events for one in getattr(getattr(event, "outcome", None), "interrupts", ())]
    assert [message for message in asked if message and "while pay ran" in message] == asked[confirm:]
    assert len(asked) == 2 + confirm
    assert done == {"payer 0": 1, "payer 1": 1, "pay": 3}
    assert 'c-pay: {"paid":"all"}' in said(events)
    await runner.close()


@pytest.mark.parametrize("repeatable", [False, "ask"])
async def test_a_call_that_only_waits_to_be_confirmed_has_not_begun(repeatable: Any, monkeypatch: pytest.MonkeyPatch):
    def make() -> LlmAgent:
        tool = FunctionTool(delete, require_confirmation=True)
        tool.custom_metadata = {"repeatable": repeatable}
        return agent("worker", [Call("delete", {"path": "a"}, id="c-del")], ["Done."], tools=[tool])

    place = Place(monkeypatch)
    first, second = await place.worker(make()), await place.worker(make())
    await first.start("clean up", session_id="s", run_id="r", agent="agent")
    await until(lambda: place.record().status is RunStatus.WAITING, "it asks")
    await first.close()
    events = await asyncio.wait_for(answer_all(second), WAIT_S)
    assert done["delete a"] == 1
    assert 'c-del: {"deleted":"a"}' in said(events)
    assert len([event for event in events if getattr(getattr(event, "outcome", None), "interrupts", None)]) == 1
    await second.close()


@pytest.mark.parametrize("approved", [True, False])
async def test_a_person_is_asked_about_a_call_of_an_agent_that_a_tool_runs(
    approved: bool, monkeypatch: pytest.MonkeyPatch
):
    def make() -> LlmAgent:
        payer = pays("ask", True)()
        calls = [Call("payer", {"request": "x"}, id="c-payer")]
        return agent("outer", calls, ["Well, well."], tools=[AgentTool(payer)])

    _, second, events = await lost_and_found(make, monkeypatch, approved=approved)
    async with second:
        assert done == {"outer 0": 1, "outer 1": 1, "payer 0": 1, "payer 1": 1, "pay": 1 + approved}
        (asked,) = [event for event in events if getattr(getattr(event, "outcome", None), "interrupts", None)]
        (question,) = asked.outcome.interrupts  # type: ignore[union-attr]
        assert "while pay ran" in (question.message or "")
        assert any("Well, well." in one for one in said(events))


async def test_a_checkpoint_of_another_version_ends_the_run_and_keeps_its_text(monkeypatch: pytest.MonkeyPatch):
    place = Place(monkeypatch)
    place.lose_at = 3
    first, second = await place.worker(single()), await place.worker(single())
    await first.start("clean up", session_id="s", run_id="r", agent="agent")
    await asyncio.wait_for(place.lost.wait(), WAIT_S)
    kept = place.memory.checkpoints["r"]
    place.memory.checkpoints["r"] = msgspec.structs.replace(
        kept, data=kept.data.replace(b'"content":{', b'"content":[', 1)
    )
    await place.lose(first, second)
    record = await (await second.attach("r")).wait()
    assert record.error is not None
    assert record.error["code"] == "checkpoint_unreadable"
    assert "Let me see. " in str(await second.messages("s"))
    await first.close()
    await second.close()


async def test_usage_limits_state_and_deps_go_on_where_they_were(monkeypatch: pytest.MonkeyPatch):
    def note(tool_context: Any) -> dict[str, Any]:
        """Notes."""
        state = tool_context.state
        state["temp:count"] = state.get("temp:count", 0) + 1
        return {"deps": state["temp:deps"], "count": state["temp:count"], "weight": state.get("weight")}

    def make() -> ADKAgent:
        calls = [Call("weigh", {}, id="c-1"), Call("note", {}, id="c-2")]
        scripts = [calls, [Call("note", {}, id="c-3")], [Call("note", {}, id="c-4")], ["End."]]
        return ADKAgent(agent("noter", *scripts, tools=[weigh, note]), deps=lambda ctx: f"deps of {ctx.run_id}")

    place, second, events = await lost_and_found(make, monkeypatch, at_save=3, config=RunConfig(max_llm_calls=3))
    async with second:
        record = place.record()
        assert record.error is not None
        assert record.error["code"] == "run_limit"  # the fourth call of the model, wherever the first was made
        noted = [text for text in said(events) if '"count"' in text]
        for number, text in enumerate(noted, 1):
            assert f'"deps":"deps of r","count":{number}' in text
        assert len(noted) == 3
        assert '"weight":7' in noted[-1]


async def test_a_live_run_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch):
    place = Place(monkeypatch)
    await place.worker(single())
    runner = await place.worker(single())
    run = await runner.start("x", run_id="r", agent="agent", config=RunConfig(streaming_mode=StreamingMode.BIDI))
    assert run.started.config is not None
    assert run.started.config.on_worker_lost == "fail"
    await run.cancel()
    await runner.close()


async def test_a_run_that_waits_goes_on_in_a_process_that_starts_later(tmp_path: Path):
    store = f"sqlite:///{tmp_path / 'j.db'}"
    async with Runner(sequential(), store=store) as runner:
        run = await runner.start("clean up", session_id="s", run_id="r")

        async def waits() -> bool:
            return (await run.record()).status is RunStatus.WAITING

        await until(waits, "it asks")
    for _ in range(2):  # restarts in between
        async with Runner(sequential(), store=store) as runner:
            assert (await runner.get_run("r")).status is RunStatus.WAITING
    async with Runner(sequential(), store=store) as runner:
        events = await asyncio.wait_for(answer_all(runner), WAIT_S)
        assert (await runner.get_run("r")).status is RunStatus.FINISHED
        assert "last: After." in said(events)
        assert done["delete a"] == 1
        assert {name: count for name, count in done.items() if count > 1} == {"look": 3}
        more = await (await runner.start("more", session_id="s")).collect()
        assert more.text


async def test_a_hand_over_in_a_call_leaves_the_users_own_session_as_it_is(monkeypatch: pytest.MonkeyPatch):
    begun = asyncio.Event()

    async def slow() -> dict[str, int]:
        """Takes long."""
        done["slow"] += 1
        if done["slow"] == 1:
            begun.set()
            await asyncio.Event().wait()
        return {"slow": 1}

    def make() -> LlmAgent:
        return agent("worker", ["Wait. ", Call("slow", {}, id="c-slow")], ["Done."], tools=[slow])

    place, service = Place(monkeypatch), InMemorySessionService()
    first, second = [await place.worker(make(), session_service=service) for _ in range(2)]
    await first.start("clean up", session_id="s", run_id="r", agent="agent")
    await begun.wait()
    await first.close()
    events = await asyncio.wait_for(answer_all(second), WAIT_S)
    assert place.record().status is RunStatus.FINISHED
    assert said(events) == ["c-slow {}", 'c-slow: {"slow":1}', "worker: Done.", "worker: Wait. "]
    session = await service.get_session(app_name="agent", user_id="anonymous", session_id="s")
    assert session is not None
    assert not [event for event in session.events if event.error_code]
    results = [result.response for event in session.events for result in event.get_function_responses()]
    assert results == [{"slow": 1}]
    assert dict(done) == {"worker 0": 1, "slow": 2, "worker 1": 1}
    await second.close()
