"""Runs of Pydantic AI agents go on at another worker: after a loss at any place, a hand-over, an answer. What was
finished is not done again, and the model is given what it would have been given anyway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, ToolFailed, ToolReturn
from pydantic_ai import RunContext as ToolContext
from pydantic_ai import messages as m
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelHTTPError
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import DeltaThinkingPart, FunctionModel
from pydantic_ai.ui import StateDeps
from pydantic_ai.usage import UsageLimits

import gapless
from gapless import ResumeEntry, RunConfig, Runner, StreamingMode
from gapless.agents import pydantic_ai_ledger
from gapless.agents.pydantic_ai import PydanticAIAgent
from gapless.errors import CheckpointUnreadable, GaplessError, RunLimit
from gapless.events import CustomEvent, Event, StateSnapshotEvent, ToolCallResultEvent
from gapless.fold import VOID
from gapless.records import RunStatus
from tests.support.agui import check_order
from tests.support.place import Place
from tests.support.pydantic_ai_runs import Script, call, every_call_is_answered, of
from tests.support.waiting import WAIT_S, at_rest, until

pytestmark = pytest.mark.both_ways

Make = Callable[["Done"], Agent[Any, Any]]


class Done:
    """What was done over all workers, and where it stops: the `stop_at`-th thing that is begun stays under way."""

    def __init__(self, *responses: list[Any], stop_at: int | None = None) -> None:
        self.responses = responses
        self.stop_at = stop_at
        self.begun = self.places = 0
        self.stopped = asyncio.Event()
        self.finished: Counter[str] = Counter()
        self.given: list[list[m.ModelMessage]] = []
        self.model = FunctionModel(self.whole, stream_function=self.stream)

    async def here(self, what: str = "") -> None:
        self.begun += 1
        if self.begun - 1 == self.stop_at:
            self.stopped.set()
            await asyncio.Event().wait()
        if what:
            self.finished[what] += 1

    def answers(self, messages: list[m.ModelMessage]) -> int:
        number = 0
        for message in messages:
            if any(isinstance(p, m.UserPromptPart) and p.content in ("hello", "again") for p in message.parts):
                number = 0
            number += isinstance(message, m.ModelResponse)
        return number

    async def stream(self, messages: list[m.ModelMessage], info: Any) -> AsyncIterator[Any]:
        number = self.answers(messages)
        self.given.append(list(messages))
        for chunk in self.responses[number]:
            await self.here()
            yield chunk
        await self.here(f"answer {number}")

    async def whole(self, messages: list[m.ModelMessage], info: Any) -> m.ModelResponse:
        number = self.answers(messages)
        self.given.append(list(messages))
        await self.here(f"answer {number}")
        return Script(self.responses[number])._whole([], info)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = Place()
    yield found
    for runner in found.runners:
        await runner.close()


async def whole(runner: Runner, run_id: str = "r") -> tuple[Any, list[Event]]:
    run = await runner.attach(run_id)
    response = await run.collect()
    events = [event async for event in run.events()]
    check_order(events)
    return response, events


def voids(events: list[Event]) -> list[Any]:
    return [event.value for event in of(events, CustomEvent) if event.name == VOID]


def results(events: list[Event]) -> dict[str, str]:
    """The results that stand, by call."""
    void = {id for value in voids(events) for id in value["toolCallIds"]}
    found: dict[str, str] = {}
    for event in of(events, ToolCallResultEvent):
        assert event.tool_call_id not in found or event.tool_call_id in void
        found[event.tool_call_id] = event.content
    return found


def shape(messages: list[m.ModelMessage]) -> list[Any]:
    """What a model is told by these messages."""
    return [
        (
            type(part).__name__,
            getattr(part, "content", None) or getattr(part, "args", None),
            getattr(part, "outcome", ""),
        )
        for message in messages
        for part in message.parts
    ]


async def lost_at(
    make: Make, stop_at: int | None, responses: list[list[Any]], *, again: bool = False, **options: Any
) -> tuple[Done, Any, Any]:
    """One run whose worker is lost at the `stop_at`-th place, gone on with at another; `again`: and the next turn."""
    done, place = Done(*responses, stop_at=stop_at), Place()
    worker = await place.worker(make(done))
    run = await worker.start("hello", session_id="s", run_id="r", agent="agent", **options)
    assert run.started.config is not None
    assert run.started.config.on_worker_lost == "continue"
    if stop_at is not None:
        stopped, ended = asyncio.ensure_future(done.stopped.wait()), asyncio.ensure_future(run.wait())
        await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if done.stopped.is_set():
            ended.cancel()
            await at_rest()  # what runs beside it ends
            other = await place.worker(make(done))
            await place.lose(worker, other)
            place.runners.append(worker)
            worker = other
    response, events = await whole(worker)
    done.places, done.stop_at = done.begun, None
    if again:
        await (await worker.start("again", session_id="s", run_id="next", agent="agent")).collect()
    for runner in place.runners:
        await runner.close()
    return done, response, events


IN_THE_SECOND_ANSWER = 12


def busy(done: Done) -> Agent[Any, Any]:
    """Thinks, talks, calls tools at once, tries one again, has one fail, and says what it found."""
    agent = Agent(done.model, instructions="Be brief.", deps_type=str)

    @agent.tool_plain
    async def weather(city: str) -> dict[str, str]:
        await done.here(f"weather {city}")
        return {city: "sunny"}

    @agent.tool
    async def book(ctx: ToolContext[Any], seats: int) -> str:
        await done.here(f"book {seats}")
        if seats > 4:
            raise ModelRetry(f"at most 4, and this is attempt {ctx.retry}")
        return f"booked {seats}"

    @agent.tool_plain
    async def pay() -> str:
        await done.here("pay")
        raise ToolFailed("no card")

    @agent.tool_plain
    async def tell() -> ToolReturn:
        await done.here("tell")
        event = StateSnapshotEvent(snapshot={"told": True})
        return ToolReturn("told", content=["a picture"], metadata=[event])

    return agent


BUSY: list[list[Any]] = [
    [
        {0: DeltaThinkingPart(content="Where?", signature="signed")},
        "Let me look. ",
        *call(2, "weather", "c1", '{"ci', 'ty": "Paris"}'),
        *call(3, "weather", "c2", '{"city": "Rome"}'),
        *call(4, "book", "c3", '{"seats": 9}'),
        *call(5, "pay", "c4", "{}"),
    ],
    ["Now ", *call(1, "book", "c5", '{"seats": 2}'), *call(2, "tell", "c6", "{}")],
    ["It is ", "sunny."],
]


@pytest.mark.parametrize("mode", [StreamingMode.SSE, StreamingMode.NONE])
async def test_a_run_goes_on_from_wherever_its_worker_is_lost(mode: StreamingMode):
    config = RunConfig(streaming_mode=mode)
    straight, whole_response, whole_events = await lost_at(busy, None, BUSY, config=config)
    for stop_at in range(straight.places):
        done, response, events = await lost_at(busy, stop_at, BUSY, config=config)
        assert done.stopped.is_set()
        assert (stop_at, response.text) == (stop_at, whole_response.text)
        assert (stop_at, done.finished) == (stop_at, straight.finished)
        assert (stop_at, shape(done.given[-1])) == (stop_at, shape(straight.given[-1]))
        every_call_is_answered(done.given[-1])
        assert results(events) == results(whole_events)
        assert response.usage == whole_response.usage
        assert len(of(events, StateSnapshotEvent)) == 1
        assert len(voids(events)) <= 1


async def test_the_next_turn_is_told_all_of_a_turn_that_went_on():
    straight, _, _ = await lost_at(busy, None, BUSY, again=True)
    for stop_at in (3, straight.places - 1):
        done, _, _ = await lost_at(busy, stop_at, BUSY, again=True)
        assert shape(done.given[-1]) == shape(straight.given[-1])
        every_call_is_answered(done.given[-1])


async def kept_going(place: Place, make: Callable[[Done], Any], done: Done, **options: Any) -> Runner:
    """One run, lost where it stops; returns the worker that goes on with it."""
    worker = await place.worker(make(done))
    await worker.start("hello", session_id="s", run_id="r", agent="agent", **options)
    await done.stopped.wait()
    await at_rest()  # what runs beside it ends
    done.stop_at = None
    other = await place.worker(make(done))
    await place.lose(worker, other)
    place.runners.append(worker)
    return other


# -- calls that may not be made again ----------------------------------------------------------------------------------


def payer(repeatable: Any) -> Callable[[Done], Agent[Any, Any]]:
    def make(done: Done) -> Agent[Any, Any]:
        agent = Agent(done.model)

        @agent.tool(metadata={"repeatable": repeatable})
        async def pay(ctx: ToolContext[Any]) -> str:
            assert ctx.tool_call_id is not None
            await done.here(f"pay {gapless.call_key(ctx.tool_call_id)}")
            return "paid"

        @agent.tool_plain
        async def look() -> str:
            return "seen"

        return agent

    return make


PAYS = [[*call(0, "pay", "c1", "{}"), *call(1, "look", "c2", "{}")], ["done"]]
WHILE_PAYING = 3
"""Where the tool is under way, after the chunks of the answer that calls it."""


async def test_a_call_that_is_not_repeatable_is_not_made_again_and_the_model_is_told(place: Place):
    done = Done(*PAYS, stop_at=WHILE_PAYING)
    other = await kept_going(place, payer(False), done)
    response, events = await whole(other)
    assert response.text == "done"
    assert "pay r:c1" not in done.finished
    assert "unknown whether this call took effect" in results(events)["c1"]
    assert "unknown whether" in str(shape(done.given[-1]))


@pytest.mark.parametrize("answer", [True, False])
async def test_a_person_is_asked_whether_to_make_a_call_again(place: Place, answer: bool):
    done = Done(*PAYS, stop_at=WHILE_PAYING)
    other = await kept_going(place, payer("ask"), done)
    await until(lambda: place.record().status is RunStatus.WAITING, "a person is asked")
    (interrupt,) = other.executions["r"].waiting
    assert "again" in (interrupt.message or "")
    last = await place.worker(payer("ask")(done))  # and it is lost once more while it waits
    await place.lose(other, last)
    place.runners.append(other)
    payload = {"approved": answer, "reason": "it is paid"}
    await last.answer("r", [ResumeEntry(interrupt_id="c1", status="resolved", payload=payload)])
    response, events = await whole(last)
    assert response.text == "done"
    assert done.finished["pay r:c1"] == answer
    assert results(events)["c2"] == "seen"
    assert "paid" in results(events)["c1"]
    assert ("unknown" in results(events)["c1"]) is not answer


async def test_a_call_that_had_returned_is_not_unknown(place: Place):
    done = Done(*PAYS, stop_at=WHILE_PAYING + 1)
    response, events = await whole(await kept_going(place, payer(False), done))
    assert (response.text, results(events)["c1"], done.finished["pay r:c1"]) == ("done", "paid", 1)


async def test_a_worker_that_closes_leaves_no_call_under_way(place: Place):
    """Handed over with one of two calls done, the other would be made twice."""
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}
    made: list[str] = []

    def make(done: Done) -> Agent[Any, Any]:
        agent = Agent(done.model)

        @agent.tool_plain(metadata={"repeatable": False})
        async def wait(name: str) -> str:
            made.append(name)
            await gates[name].wait()
            return name

        return agent

    done = Done([*call(0, "wait", "c1", '{"name": "a"}'), *call(1, "wait", "c2", '{"name": "b"}')], ["done"])
    leaving, other = await place.worker(make(done)), await place.worker(make(done))
    await leaving.start("hello", run_id="r", agent="agent")
    await until(lambda: made == ["a", "b"], "both are under way")
    closing = asyncio.create_task(leaving.close(grace_s=WAIT_S))
    await until(lambda: leaving.draining, "it leaves")
    gates["a"].set()
    await at_rest()
    assert not closing.done()
    gates["b"].set()
    await closing
    response, events = await whole(other)
    assert (response.text, made, results(events)) == ("done", ["a", "b"], {"c1": "a", "c2": "b"})
    assert not voids(events)
    assert len(done.given) == 2


# -- questions ---------------------------------------------------------------------------------------------------------


def asks(done: Done) -> Agent[Any, Any]:
    """Asks about three calls of four: one by its kind, one by itself, one that another executes."""
    agent = Agent(done.model, output_type=str)

    @agent.output_validator
    def fine(output: str) -> str:
        return output

    @agent.tool_plain
    async def look() -> str:
        await done.here("look")
        return "looked"

    @agent.tool_plain(requires_approval=True)
    async def delete(path: str) -> str:
        await done.here(f"delete {path}")
        return f"deleted {path}"

    @agent.tool_plain
    async def elsewhere() -> str:
        await done.here("elsewhere")
        raise CallDeferred(metadata={"job": 1})

    @agent.tool
    async def maybe(ctx: ToolContext[Any]) -> str:
        await done.here(f"maybe {ctx.tool_call_approved}")
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"why": "big"})
        return "maybe done"

    return agent


ASKS = [
    [
        "I would. ",
        *call(1, "look", "c1", "{}"),
        *call(2, "delete", "c2", '{"path": "a"}'),
        *call(3, "elsewhere", "c3", "{}"),
        *call(4, "maybe", "c4", "{}"),
    ],
    ["Done."],
]


def entry(id: str, payload: Any) -> ResumeEntry:
    return ResumeEntry(interrupt_id=id, status="resolved", payload=payload)


@pytest.mark.parametrize("at", ["at once", "while the approved run"])
async def test_questions_are_answered_on_another_worker(place: Place, at: str):
    done = Done(*ASKS)
    first = await place.worker(asks(done))
    await first.start("hello", session_id="s", run_id="r", agent="agent")
    await until(lambda: place.record().status is RunStatus.WAITING, "it asks")
    second = await place.worker(asks(done))
    await place.lose(first, second)
    place.runners.append(first)
    await until(lambda: place.record().owner == "", "the run is nobody's")
    if at != "at once":
        done.stop_at = done.begun
    answers = [
        entry("c2", {"approved": True, "editedArgs": {"path": "b"}}),
        entry("c3", "from outside"),
        entry("c4", {"approved": "what"}),
    ]
    await second.answer("r", answers)
    await until(lambda: place.record().status is RunStatus.WAITING and second.executions["r"].waiting, "it asks again")
    assert [interrupt.id for interrupt in second.executions["r"].waiting] == ["c4"]
    await second.answer("r", [entry("c4", True)])
    worker = second
    if at != "at once":
        await done.stopped.wait()
        await at_rest()
        worker = await place.worker(asks(done))
        await place.lose(second, worker)
        place.runners.append(second)
    response, events = await whole(worker)
    assert response.text == "I would. \n\nDone."
    assert done.finished == Counter(
        ["answer 0", "look", "elsewhere", "maybe False", "delete b", "maybe True", "answer 1"]
    )
    assert results(events) == {"c1": "looked", "c2": "deleted b", "c3": "from outside", "c4": "maybe done"}
    every_call_is_answered(done.given[-1])
    assert len(done.given) == 2


async def test_a_denial_stays_one(place: Place):
    done = Done([*call(0, "delete", "c1", '{"path": "a"}'), *call(1, "look", "c2", "{}")], ["Fine", "."])
    first = await place.worker(asks(done))
    await first.start("hello", run_id="r", agent="agent")
    await until(lambda: place.record().status is RunStatus.WAITING, "it asks")
    done.stop_at = done.begun  # in the answer that follows
    await first.answer("r", [entry("c1", {"approved": False, "reason": "never"})])
    await done.stopped.wait()
    second = await place.worker(asks(done))
    await place.lose(first, second)
    place.runners.append(first)
    response, events = await whole(second)
    assert (response.text, results(events)["c1"]) == ("Fine.", "never")
    assert not [what for what in done.finished if what.startswith("delete")]


# -- limits, output, state, history ------------------------------------------------------------------------------------


async def test_limits_and_usage_go_on_where_they_were(place: Place):
    def make(done: Done) -> Agent[Any, Any]:
        return busy(done)

    done = Done(*BUSY, stop_at=len(BUSY[0]) + 1)
    other = await kept_going(place, make, done, config=RunConfig(max_llm_calls=2))
    run = await other.attach("r")
    with pytest.raises(RunLimit, match="request_limit of 2"):
        await run.collect()
    assert done.finished["answer 1"] == 1


async def test_calls_are_counted_once_against_their_limit(place: Place):
    def make(done: Done) -> Any:
        agent = payer(True)(done)
        limits = UsageLimits(tool_calls_limit=2)
        iter_ = agent.iter
        agent.iter = lambda *args, **more: iter_(*args, **(more | {"usage_limits": limits}))  # type: ignore[method-assign]
        return agent

    done = Done(*PAYS, stop_at=WHILE_PAYING)
    response, _ = await whole(await kept_going(place, make, done))
    assert response.text == "done"


class City(BaseModel):
    name: str


async def test_typed_output_that_was_refused_is_asked_for_again_within_its_retries(place: Place):
    def make(done: Done) -> Agent[Any, Any]:
        agent = Agent(done.model, output_type=City, retries={"output": 1}, instructions="Be brief.")

        @agent.output_validator
        def known(ctx: ToolContext[Any], city: City) -> City:
            if city.name != "Rome":
                raise ModelRetry(f"unknown, attempt {ctx.retry}")
            return city

        return agent

    def named(name: str, id: str) -> list[Any]:
        return call(0, "final_result", id, f'{{"name": "{name}"}}')

    done = Done(named("Roam", "c1"), named("Rome", "c2"), stop_at=3)  # in the second answer
    response, _ = await whole(await kept_going(place, make, done))
    assert response.result == {"name": "Rome"}
    assert done.finished == Counter(["answer 0", "answer 1"])
    worse = Done(named("Roam", "c1"), named("Ram", "c2"), stop_at=3)
    other = Place()
    worker = await kept_going(other, make, worse)
    with pytest.raises(GaplessError, match="output retries"):
        await (await worker.attach("r")).collect()
    for runner in other.runners:
        await runner.close()


async def test_an_answer_that_was_whole_is_not_asked_for_again(place: Place):
    def make(done: Done) -> Agent[Any, Any]:
        agent = Agent(done.model, instructions="Be brief.")

        @agent.output_validator
        async def slow(output: str) -> str:
            await done.here("validated")
            return f"{output}!"

        return agent

    done = Done(["All ", "said."], stop_at=3)
    response, events = await whole(await kept_going(place, make, done))
    assert (response.text, response.result) == ("All said.", "All said.!")
    assert done.finished == Counter(["answer 0", "validated"])
    assert not voids(events)


async def test_a_model_to_fall_back_on_is_fallen_back_on_again(place: Place):
    def make(done: Done) -> Agent[Any, Any]:
        def refuses(*_: Any) -> Any:
            raise ModelHTTPError(503, "first")

        broken = FunctionModel(refuses, stream_function=refuses)
        agent = busy(done)
        agent.model = FallbackModel(broken, done.model)
        return agent

    done = Done(*BUSY, stop_at=len(BUSY[0]) + 1)
    response, _ = await whole(await kept_going(place, make, done))
    assert response.text.endswith("It is sunny.")
    assert {done.finished[f"answer {number}"] for number in range(3)} == {1}


class Counting(BaseModel):
    count: int = 0


async def test_state_that_tools_share_is_where_it_stood(place: Place):
    def make(done: Done) -> Agent[Any, Any]:
        agent = Agent(done.model, deps_type=StateDeps[Counting])

        @agent.tool
        async def count(ctx: ToolContext[StateDeps[Counting]]) -> int:
            ctx.deps.state.count += 1
            await done.here()
            return ctx.deps.state.count

        return agent

    counts = [call(0, "count", f"c{number}", "{}") for number in range(2)]
    done = Done(*counts, ["done"], stop_at=3)  # in the second answer
    _, events = await whole(await kept_going(place, make, done))
    assert results(events) == {"c0": "1", "c1": "2"}


@pytest.mark.parametrize("trims", [False, True])
async def test_earlier_turns_are_what_the_framework_had_of_them(place: Place, trims: bool):
    def make(done: Done) -> Agent[Any, Any]:
        def newest(messages: list[m.ModelMessage]) -> list[m.ModelMessage]:
            return messages[-3:]

        return Agent(done.model, capabilities=[ProcessHistory(newest)] if trims else [], tools=[len])

    done = Done([*call(0, "len", "c1", '{"obj": "four"}')], ["It is ", "4."])
    first = await place.worker(make(done))
    for number in range(2):
        await (await first.start("hello", session_id="s", run_id=f"before{number}", agent="agent")).collect()
    done.stop_at = done.begun + 3
    second = await kept_going(place, make, done)
    response, _ = await whole(second)
    assert response.text == "It is 4."
    assert shape(done.given[-1]) == shape(done.given[-2])
    await (await second.start("hello", session_id="s", run_id="after", agent="agent")).collect()
    assert len(done.given[-1]) == (3 if trims else 15)


async def test_a_prompt_that_had_no_answer_stays_apart_from_the_next(place: Place):
    done = Done(["no ", "no"], stop_at=1)
    first = await place.worker(Agent(done.model))
    cut = await first.start("hello", session_id="s", run_id="cut", agent="agent")
    await done.stopped.wait()
    await cut.cancel()
    await cut.wait()
    done.responses = ([*call(0, "len", "c1", '{"obj": "four"}')], ["It is ", "4."])
    done.stopped.clear()
    done.stop_at = done.begun + 3
    second = await kept_going(place, lambda done: Agent(done.model, tools=[len]), done)
    await whole(second)
    await (await second.start("again", session_id="s", run_id="after", agent="agent")).collect()
    prompts = [part.content for message in done.given[-1] for part in message.parts if part.part_kind == "user-prompt"]
    assert prompts == ["hello", "hello", "again"]


async def test_a_delegate_that_has_answered_is_not_asked_again_and_its_usage_counts(place: Place):
    def make(done: Done) -> Agent[Any, Any]:
        agent = Agent(done.model)

        @agent.tool
        async def ask(ctx: ToolContext[Any]) -> str:
            async def answer(messages: Any, info: Any) -> m.ModelResponse:
                await done.here("delegate")
                return m.ModelResponse(parts=[m.TextPart("forty-two")])

            return (await Agent(FunctionModel(answer)).run("hello", usage=ctx.usage)).output

        return agent

    done = Done(call(0, "ask", "c1", "{}"), ["It is ", "42."], stop_at=4)
    other = await kept_going(place, make, done, config=RunConfig(max_llm_calls=3))
    assert (await whole(other))[0].text == "It is 42."
    assert done.finished["delegate"] == 1


# -- what cannot be read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("newer", [True, False])
async def test_a_checkpoint_of_another_version_ends_the_run_and_keeps_its_text(
    place: Place, newer: bool, monkeypatch: pytest.MonkeyPatch
):
    done = Done(*BUSY, stop_at=IN_THE_SECOND_ANSWER)
    if newer:
        monkeypatch.setattr(pydantic_ai_ledger, "FRAMEWORK", "pydantic-ai 3.0.0")
    else:
        monkeypatch.setattr(pydantic_ai_ledger, "_encode", lambda kept: b"\xc1")
    worker = await place.worker(busy(done))
    await worker.start("hello", session_id="s", run_id="r", agent="agent")
    await done.stopped.wait()
    monkeypatch.undo()
    other = await place.worker(busy(done))
    await place.lose(worker, other)
    place.runners.append(worker)
    with pytest.raises(CheckpointUnreadable, match="run r") as raised:
        await (await other.attach("r")).collect()
    assert "Let me look. " in raised.value.text
    assert "3.0.0" in str(raised.value) or not newer


async def test_dependencies_come_from_the_adapter_or_the_run_ends_with_its_worker(place: Place):
    done = Done(*BUSY, stop_at=IN_THE_SECOND_ANSWER)

    def make(done: Done) -> Any:
        return PydanticAIAgent(busy(done), deps=lambda ctx: f"deps of {ctx.run_id}")

    assert (await whole(await kept_going(place, make, done)))[0].text.endswith("sunny.")
    run = await place.runners[0].start("hello", run_id="own", agent="agent", deps="of this process")
    assert run.started.config is not None
    assert run.started.config.on_worker_lost == "fail"
    await run.cancel()


async def test_in_a_file_it_is_the_same(tmp_path: Path):
    done = Done(*BUSY, stop_at=IN_THE_SECOND_ANSWER)
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Runner(agents={"agent": busy(done)}, store=store) as first:
        await first.start("hello", session_id="s", run_id="r")
        await done.stopped.wait()
    done.stop_at = None
    async with Runner(agents={"agent": busy(done)}, store=store) as second:
        response, events = await whole(second)
    assert response.text == "Let me look. \n\nNow \n\nIt is sunny."
    assert set(done.finished.values()) == {1}
    assert len(results(events)) == 6
