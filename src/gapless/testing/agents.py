"""The conformance suite of agent adapters: what a run's journal must hold, whatever framework made it.

A framework's adapter passes it with a subclass that says how such an agent is made; `pytest` runs it, nothing else is
needed:

    from gapless.testing.agents import AgentConformance, Made

    class TestMine(AgentConformance):
        def make(self, *chunks, tools=(), approve=(), output_type=None):
            model = MyScriptedModel(chunks)
            return Made(MyAgent(model, tools), running=lambda: model.running, requests=lambda: model.requests)

`gapless.testing.script` has what turns chunks into a model's responses: `response_at`, `wait_or_raise`, `pieces`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pydantic

from gapless.events import (
    CustomEvent,
    Event,
    Interrupt,
    ReasoningMessageContentEvent,
    ReasoningMessageEndEvent,
    ResumeEntry,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    TextMessageContentEvent,
    Tool,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
    ToolMessage,
    UserMessage,
)
from gapless.fold import void_of
from gapless.runs.order import ENDS, STARTS
from gapless.runs.run import Run
from gapless.runs.runner import Runner
from gapless.testing.place import Place
from gapless.testing.script import Chunk, Gate, NextTurn, Output, Reasoning, ToolCall
from gapless.user_message import mark_results

__all__ = ["AgentConformance", "Forecast", "Made"]

TEST_S_MAX = 60.0
"""What one test may take: an adapter that hangs fails it."""
UNTOLD = "4929-what-nobody-may-read"
"""In the text of a failing tool's exception."""

_EventT = TypeVar("_EventT")
_CONTENTS: dict[type, tuple[str, str]] = {
    TextMessageContentEvent: ("text", "message_id"),
    ReasoningMessageContentEvent: ("reasoning", "message_id"),
    ToolCallArgsEvent: ("call", "tool_call_id"),
}


class Forecast(pydantic.BaseModel):
    """Is the typed output that the suite asks for: `degrees` in a `city`."""

    city: str
    degrees: int


@dataclass(frozen=True)
class Made:
    """Is an agent with its scripted model: the `agent`, as `Runner` takes it; how many requests its model is answering
    (`running`); and what the model was given, one text for each request, in any form that shows the conversation
    (`requests`)."""

    agent: Any
    running: Callable[[], int]
    requests: Callable[[], Sequence[str]]


class AgentConformance:
    """What adapters must do, as tests. A subclass says how an agent is made (`make`) and what its framework has not
    (`lacks`)."""

    lacks: ClassVar[Mapping[str, str]] = {}
    """Tests that are skipped, by name, each with the reason: what the framework does not have."""

    keeps_answers: ClassVar[bool] = True
    """An answer of the model whose calls are under way when the worker is lost is not asked for again."""

    def make(
        self,
        *chunks: Chunk,
        tools: Sequence[Callable[..., Awaitable[Any]]] = (),
        approve: Collection[str] = (),
        output_type: type[pydantic.BaseModel] | None = None,
    ) -> Made:
        """Make an agent whose model says `chunks`, as `pydantic_ai_model` and its like do.

        `tools` are async functions with annotations and a docstring, which the agent calls; calls of those in `approve`
        want a person's yes first. With `output_type` the agent's output is of that type, and `Output` gives it.
        """
        raise NotImplementedError

    # -- the model speaks -------------------------------------------------------------------------------------------

    def test_text_is_streamed_as_it_comes(self) -> None:
        """Check `text`: it comes in pieces while the model speaks, as one message."""

        async def test() -> None:
            gate = Gate()
            made = self.make("One ", "two ", gate, "three.")
            async with Runner(made.agent) as runner:
                run = await runner.start("first question")
                seen: list[str] = []
                async for event in run.events():
                    if isinstance(event, TextMessageContentEvent):
                        seen.append(event.delta)
                        if "".join(seen) == "One two ":
                            gate.open()  # all of it has come while the model still speaks
                assert "".join(seen) == "One two three."
                events = await _checked(run)
                assert len({event.message_id for event in _of(events, TextMessageContentEvent)}) == 1
                assert isinstance(events[-1], RunFinishedEvent)

        self._test("text", test)

    def test_reasoning_is_apart_from_the_text_and_ends_before_it(self) -> None:
        """Check `reasoning`: one message of its own, which ends when the text begins."""

        async def test() -> None:
            made = self.make(Reasoning("Let me "), Reasoning("think."), "It is ", "so.")
            async with Runner(made.agent) as runner:
                run = await runner.start("why?")
                events = await _checked(run)
                _equal(await _said(run), "It is so.")
            thought = _of(events, ReasoningMessageContentEvent)
            assert "".join(event.delta for event in thought) == "Let me think."
            assert len({event.message_id for event in thought}) == 1
            kinds = [type(event) for event in events]
            assert kinds.index(ReasoningMessageEndEvent) < kinds.index(TextMessageContentEvent)

        self._test("reasoning", test)

    def test_a_second_turn_knows_the_first_once(self) -> None:
        """Check `second_turn`: the model is told what was asked and answered before, each once."""

        async def test() -> None:
            made = self.make("the-first-answer", NextTurn(), "the-second-answer")
            async with Runner(made.agent) as runner:
                for question in ("the-first-question", "the-second-question"):
                    run = await runner.start(question, session_id="s")
                    await _checked(run)
            told = made.requests()[-1]
            for said in ("the-first-question", "the-first-answer", "the-second-question"):
                assert told.count(said) == 1, f"{said} is told {told.count(said)} times: {told}"

        self._test("second_turn", test)

    def test_a_character_that_is_divided_is_whole(self) -> None:
        """Check `divided`: halves of a character in two pieces are one, shown and told in the next turn."""

        async def test() -> None:
            made = self.make("so \ud83d", "\ude00 it is", NextTurn(), "well")
            async with Runner(made.agent) as runner:
                run = await runner.start("how?", session_id="s")
                await _checked(run)
                _equal(await _said(run), "so \U0001f600 it is")
                await _checked(await runner.start("and now?", session_id="s"))
            assert made.requests()[-1].count("so \U0001f600 it is") == 1

        self._test("divided", test)

    # -- tools ------------------------------------------------------------------------------------------------------

    def test_parallel_calls_keep_their_own_arguments_and_results(self) -> None:
        """Check `parallel_calls`: each call has its own arguments, whole, and its own result after them."""

        async def test() -> None:
            async def join(first: str, second: str) -> str:
                """Join two words."""
                return f"{first}+{second}"

            wanted = [{"first": "a" * 20, "second": "b"}, {"first": "c", "second": "d" * 20}]
            made = self.make("Look: ", *(ToolCall("join", args) for args in wanted), "done.", tools=[join])
            async with Runner(made.agent) as runner:
                run = await runner.start("join")
                events = await _checked(run)
                _equal(await _said(run), "Look: done.")
            calls = _of(events, ToolCallStartEvent)
            assert [call.tool_call_name for call in calls] == ["join", "join"]
            assert len({call.tool_call_id for call in calls}) == 2
            for call, args in zip(calls, wanted, strict=True):
                assert json.loads(_arguments(events, call.tool_call_id)) == args
                (result,) = [one for one in _of(events, ToolCallResultEvent) if one.tool_call_id == call.tool_call_id]
                assert f"{args['first']}+{args['second']}" in str(result.content)
                assert events.index(_end_of(events, call.tool_call_id)) < events.index(result)

        self._test("parallel_calls", test)

    def test_a_tool_that_fails_is_shown_to_have_failed(self) -> None:
        """Check `failing_tool`: the call's result is an error; a run that fails by it does so as `tool_failed`."""

        async def test() -> None:
            async def broken(number: int) -> str:
                """Fail."""
                raise ValueError(f"no {number}: {UNTOLD}")

            made = self.make("Try: ", ToolCall("broken", {"number": 7}), "sorry.", tools=[broken])
            async with Runner(made.agent) as runner:
                events = await _checked(await runner.start("try"))
            text = "".join(event.delta for event in _of(events, TextMessageContentEvent))
            assert text.startswith("Try: ")
            ended = events[-1]
            if isinstance(ended, RunErrorEvent):
                assert ended.code == "tool_failed", ended
                assert UNTOLD not in ended.message
            results = _of(events, ToolCallResultEvent)
            assert results
            assert results[-1].error is not None, "a failed call's result says so"

        self._test("failing_tool", test)

    def test_a_question_is_asked_and_nothing_but_a_yes_is_one(self) -> None:
        """Check `question`: a call waits for a person, an unclear answer is asked for again, a no is one."""

        async def test() -> None:
            made_calls: list[str] = []

            async def pay(to: str) -> str:
                """Pay."""
                made_calls.append(to)
                return f"paid {to}"

            script = ("Shall I? ", ToolCall("pay", {"to": "Ann"}), "Over.")
            for answers, paid in (([{"approved": "yes"}, {"approved": True}], ["Ann"]), ([{"approved": False}], [])):
                made_calls.clear()
                made = self.make(*script, tools=[pay], approve=["pay"])
                async with Runner(made.agent) as runner:
                    run = await runner.start("pay")
                    watch = _Watch(run)
                    for times, payload in enumerate(answers, 1):
                        asked = await watch.asked(times)
                        assert not made_calls
                        calls = _of(watch.seen, ToolCallStartEvent)
                        assert asked.tool_call_id in {call.tool_call_id for call in calls}
                        assert (asked.metadata or {}).get("toolName") == "pay"
                        assert (asked.metadata or {}).get("arguments") == {"to": "Ann"}
                        await run.answer([ResumeEntry(interrupt_id=asked.id, status="resolved", payload=payload)])
                    events = await _checked(run)
                    assert (await _said(run)).endswith("Over.")
                    await watch.close()
                assert made_calls == paid
                assert _of(events, ToolCallResultEvent)[-1].tool_call_id == asked.tool_call_id

        self._test("question", test)

    def test_a_call_of_the_clients_own_tool_ends_the_run_and_its_result_comes_with_the_next(self) -> None:
        """Check `client_tool`: the run ends with the call pending, and the next tells the model its result once."""

        async def test() -> None:
            tool = Tool(name="colour", description="Ask for a colour.", parameters={"type": "object", "properties": {}})
            made = self.make("Which? ", ToolCall("colour", {}), "Thanks.", NextTurn(), "Thanks.")
            async with Runner(made.agent) as runner:
                run = await runner.start("paint", session_id="s", tools=[tool])
                events = await _checked(run)
                (call,) = _of(events, ToolCallStartEvent)
                ended = events[-1]
                assert isinstance(ended, RunFinishedEvent)
                assert isinstance(ended.outcome, RunFinishedSuccessOutcome)
                assert ended.outcome.pending_tool_call_ids == [call.tool_call_id]
                assert not _of(events, ToolCallResultEvent)
                asked = UserMessage(id="u2", content="go on")
                mark_results(asked, [ToolMessage(id="t1", tool_call_id=call.tool_call_id, content="ultramarine")])
                run = await runner.start(asked, session_id="s", tools=[tool])
                await _checked(run)
                _equal(await _said(run), "Thanks.")
            assert made.requests()[-1].count("ultramarine") == 1

        self._test("client_tool", test)

    # -- the end ----------------------------------------------------------------------------------------------------

    def test_a_typed_output_is_the_runs_result(self) -> None:
        """Check `typed_output`: it is in the run's last event, as JSON values."""

        async def test() -> None:
            made = self.make(Output({"city": "Paris", "degrees": 21}), output_type=Forecast)
            async with Runner(made.agent) as runner:
                run = await runner.start("weather")
                events = await _checked(run)
            ended = events[-1]
            assert isinstance(ended, RunFinishedEvent)
            assert ended.result == {"city": "Paris", "degrees": 21}

        self._test("typed_output", test)

    def test_tokens_are_counted_once(self) -> None:
        """Check `usage`: the run's last event has the tokens of all its model calls."""

        async def test() -> None:
            async def look(at: str) -> str:
                """Look."""
                return at

            totals = []
            for script in (("Hello.",), ("A. ", ToolCall("look", {"at": "b"}), "C.")):
                made = self.make(*script, tools=[look])
                async with Runner(made.agent) as runner:
                    events = await _checked(await runner.start("hello"))
                ended = events[-1]
                assert isinstance(ended, RunFinishedEvent)
                assert ended.usage
                totals.append(sum(one.total_tokens or 0 for one in ended.usage))
            assert 0 < totals[0] < totals[1]

        self._test("usage", test)

    def test_a_cancel_stops_the_model_and_keeps_what_was_said(self) -> None:
        """Check `cancel`: the model's request ends, and what was said stays."""

        async def test() -> None:
            gate = Gate()
            made = self.make("Said ", gate, "never.")
            async with Runner(made.agent) as runner:
                run = await runner.start("speak")
                await gate.reached()
                watch = _Watch(run)
                await watch.text("Said ")
                assert made.running() == 1
                await run.cancel()
                await run.wait()
                assert made.running() == 0
                await watch.close()
                events = await _checked(run)
                _equal(await _said(run), "Said ")
            assert not _of(events, RunErrorEvent) or _of(events, RunErrorEvent)[0].code == "run_cancelled"

        self._test("cancel", test)

    def test_another_worker_goes_on_after_the_last_finished_step(self) -> None:
        """Check `goes_on`: nothing that was finished is done or asked again, and nothing is said twice."""

        async def test() -> None:
            begun: Counter[str] = Counter()
            gate, place = Gate(), Place()

            async def first(at: str) -> str:
                """Be done once."""
                begun["first"] += 1
                return f"first {at}"

            async def second(at: str) -> str:
                """Be under way when the worker is lost."""
                begun["second"] += 1
                await gate.pass_through()
                return f"second {at}"

            def make() -> Made:
                script = ("One. ", ToolCall("first", {"at": "a"}), "Two. ", ToolCall("second", {"at": "b"}), "Three.")
                return self.make(*script, tools=[first, second])

            try:
                lost = await place.worker(make().agent)
                await lost.start("go", agent="agent", session_id="s", run_id="r")
                await gate.reached()
                made = make()
                other = await place.worker(made.agent)
                await place.lose(lost, other)
                gate.open()
                run = await other.attach("r")
                events = await _checked(run)
                assert isinstance(events[-1], RunFinishedEvent), events[-1]
                _equal(await _said(run), "One. Two. Three.")
                assert begun == {"first": 1, "second": 2}, "a finished step is not done again, one under way is"
                again = 0 if self.keeps_answers else 1
                assert len(made.requests()) == 1 + again, "the model is asked for nothing that it has answered"
                assert all("first a" in told for told in made.requests())
                assert "second b" in made.requests()[-1]
            finally:
                await place.close()

        self._test("goes_on", test)

    def test_nothing_goes_on_where_a_run_was_left_at_a_save(self) -> None:
        """Check `left`: a worker that stops leaves its run where that is saved, does no more of it, and another goes
        on, saying nothing twice and taking nothing back."""

        async def test() -> None:
            begun: Counter[str] = Counter()
            gate, place = Gate(), Place()

            async def first(at: str) -> str:
                """Be under way when the worker is told to stop."""
                begun["first"] += 1
                await gate.pass_through()
                return f"first {at}"

            async def second(at: str) -> str:
                """Be begun by the other."""
                begun["second"] += 1
                return f"second {at}"

            def make() -> Made:
                script = ("One. ", ToolCall("first", {"at": "a"}), "Two. ", ToolCall("second", {"at": "b"}), "Three.")
                return self.make(*script, tools=[first, second])

            try:
                here, there = make(), make()
                leaving = await place.worker(here.agent)
                other = await place.worker(there.agent)
                await leaving.sweep()
                await leaving.start("go", agent="agent", session_id="s", run_id="r")
                await gate.reached()
                stopping = asyncio.create_task(leaving.drain(TEST_S_MAX))
                await asyncio.sleep(0)  # it has begun
                assert leaving.draining
                gate.open()
                await stopping
                assert not leaving.executions
                assert here.running() == 0
                assert begun == {"first": 1}, "what comes after the save is the other's"
                await other.sweep()
                events = await _checked(await other.attach("r"))
                assert isinstance(events[-1], RunFinishedEvent), events[-1]
                assert not [event for event in _of(events, CustomEvent) if void_of(event) is not None]
                assert "".join(event.delta for event in _of(events, TextMessageContentEvent)) == "One. Two. Three."
                assert begun == {"first": 1, "second": 1}, "nothing is done twice"
                assert "second b" in there.requests()[-1]
            finally:
                gate.open()
                await place.close()

        self._test("left", test)

    def _test(self, name: str, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        lacks = self.lacks.get(name) or (self.lacks.get("goes_on") if name == "left" else None)
        if lacks is not None:
            import pytest

            pytest.skip(lacks)

        async def bounded() -> None:
            async with asyncio.timeout(TEST_S_MAX):
                await test()

        asyncio.run(bounded())


def _of(events: Sequence[Event], kind: type[_EventT]) -> list[_EventT]:
    return [event for event in events if isinstance(event, kind)]


def _end_of(events: Sequence[Event], call_id: str) -> Event:
    (end,) = [event for event in _of(events, ToolCallEndEvent) if event.tool_call_id == call_id]
    return end


def _arguments(events: Sequence[Event], call_id: str) -> str:
    return "".join(event.delta for event in _of(events, ToolCallArgsEvent) if event.tool_call_id == call_id)


async def _said(run: Run) -> str:
    """Return the text of a run that has ended, without what was taken back."""
    return "".join((await run.collect()).chunks)


def _equal(found: object, wanted: object) -> None:
    assert found == wanted, f"{found!r}, not {wanted!r}"


async def _checked(run: Run) -> list[Event]:
    """Return the run's events, to its end, their order checked."""
    events = [event async for event in run.events()]
    _check_order(events)
    return events


def _check_order(events: Sequence[Event]) -> None:
    """Check that nothing is said of what is not open, nothing opened twice, and that all is closed in the end."""
    is_open: set[tuple[str, str]] = set()
    for event in events:
        kind = type(event)
        if kind in STARTS:
            what, field = STARTS[kind]
            key = what, getattr(event, field)
            assert key not in is_open, f"{key} begins twice"
            is_open.add(key)
        elif kind in ENDS:
            what, field = ENDS[kind]
            key = what, getattr(event, field)
            assert key in is_open, f"{key} ends and was not open"
            is_open.discard(key)
        elif kind in _CONTENTS:
            what, field = _CONTENTS[kind]
            assert (what, getattr(event, field)) in is_open, f"{kind.__name__} of what is not open"
        elif isinstance(event, RunFinishedEvent | RunErrorEvent):
            assert not is_open, f"open at the end: {is_open}"
        elif isinstance(event, CustomEvent) and (void := void_of(event)) is not None:
            assert not is_open & {("text", id) for id in void.message_ids}, "taken back while it is open"
    assert isinstance(events[0], RunStartedEvent)


class _Watch:
    """Watches a run: `seen` are its events so far."""

    def __init__(self, run: Run) -> None:
        self.seen: list[Event] = []
        self._task = asyncio.create_task(self._watch(run))

    async def _watch(self, run: Run) -> None:
        async for event in run.events():
            self.seen.append(event)

    async def text(self, text: str) -> None:
        """Wait until it has said `text` and nothing else."""
        await self._until(lambda: "".join(one.delta for one in _of(self.seen, TextMessageContentEvent)) == text)

    async def asked(self, times: int) -> Interrupt:
        """Wait until it asks a person for the n-th time; return the question."""

        def questions() -> list[Interrupt]:
            outcomes = [event.outcome for event in _of(self.seen, RunFinishedEvent)]
            return [one for out in outcomes if isinstance(out, RunFinishedInterruptOutcome) for one in out.interrupts]

        await self._until(lambda: len(questions()) >= times)
        return questions()[times - 1]

    async def _until(self, holds: Callable[[], bool]) -> None:
        while True:
            if holds():
                return
            assert not self._task.done(), f"it has ended: {self.seen[-1]}"
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
