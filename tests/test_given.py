"""A slip in a call from Python is told at once, by the parameter's name and what was given."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gapless import ConnectionLimits, Limits, Runner, create_app
from gapless.agents.base import RunContext
from gapless.client import ClientLimits
from gapless.errors import AgentFailed, AgentInvalid, CursorInvalid, GaplessError, InputInvalid, UsageError
from gapless.events import Context, Interrupt, ResumeEntry, RunFinishedEvent, Tool, UserMessage
from gapless.given import check_given
from gapless.runs.run import Run


async def asks(message: str, ctx: RunContext) -> AsyncIterator[str]:
    """Asks a person before it answers."""
    (answer,) = await ctx.interrupt([Interrupt(id="q1", reason="confirm", message="sure?")])
    yield f"{message}: {answer.status} {answer.payload}"


def test_a_bool_is_no_number_and_a_long_value_is_cut():
    check_given("x", True, bool | None, "true or false")
    with pytest.raises(UsageError, match=r"^x: a number, not True$"):
        check_given("x", True, int | float, "a number")
    with pytest.raises(InputInvalid, match=r"^x: a number, not 'a{59}…$"):
        check_given("x", "a" * 99, int, "a number", InputInvalid)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Runner(asks, store=5), "store: a URL, the Path of an SQLite file, or a Store, not 5"),
        (lambda: Runner(asks, store="a.db"), "for a file write sqlite:///a.db"),
        (lambda: Runner(asks, config={"timeout": 3}), "config: a gapless.RunConfig, not a dict"),
        (lambda: Runner(asks, client_config={}), "client_config: a gapless.ClientConfig, not a dict"),
        (lambda: Runner(asks, limits={"runs_active_max": 3}), "limits: gapless.Limits, not a dict"),
        (lambda: Runner(agents=[asks]), "agents: a dict of agents by their names, not a list"),
        (lambda: Runner(agents={}), "agents: there is none in it"),
        (lambda: Runner(asks, app_name=5), "app_name: a name, not 5"),
        (lambda: Runner(asks, retention_s="7d"), "retention_s: a number of seconds, or None for ever, not '7d'"),
        (lambda: Runner(asks, lease_s=True), "lease_s: a number of seconds, not True"),
        (lambda: Runner(asks, lease_s=0), "lease_s: a number from 0.001 to 86400, not 0"),
        (lambda: Runner(asks, lease_s=float("nan")), "lease_s: a number from 0.001 to 86400, not nan"),
        (lambda: Runner(asks, retention_s=-1), "retention_s: a number from 0 to .*, not -1"),
        (lambda: Runner(asks, retention_s=float("inf")), "retention_s: a number from 0 to .*, not inf"),
        (lambda: create_app(Runner(asks), drain_s=-1), "drain_s: a number from 0 to 86400, not -1"),
        (lambda: create_app(Runner(asks), drain_s="1"), "drain_s: a number of seconds, not '1'"),
        (lambda: create_app(asks), r"runner: a Runner, as in create_app\(Runner\(agent\)\), not a function"),
    ],
)
def test_a_runner_and_an_app_say_what_they_were_not_given(make: Callable[[], object], said: str):
    with pytest.raises(UsageError, match=said):
        make()


@pytest.mark.parametrize("kind", [Limits, ConnectionLimits, ClientLimits])
def test_each_number_of_a_bound_is_one(kind: type[Limits] | type[ConnectionLimits] | type[ClientLimits]):
    for field in msgspec.structs.fields(kind):
        wrong: list[Any] = [0, -1, "1", True, float("nan"), float("inf"), *([] if field.name.endswith("_s") else [1.5])]
        for value in [*wrong, *([] if field.default is None else [None])]:
            with pytest.raises(ValueError, match=f"^{field.name}: a (whole )?number .*, not {value!r}$"):
                kind(**{field.name: value})
        assert getattr(kind(**{field.name: 1}), field.name) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: 5, "^cannot run an int as an agent"),
        (
            lambda: asks("x", None),
            "cannot run an async_generator as an agent: give the function, not its call: asks and",
        ),
        (lambda: asyncio.sleep(0), "cannot run a coroutine as an agent: give the function"),
        (lambda: (x for x in "ab"), "give the function, not its call"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_can_be_no_agent_is_told_as_what_it_is(make: Callable[[], object], said: str):
    with pytest.raises(AgentInvalid, match=said):
        Runner(make())
    with pytest.raises(AgentInvalid, match="support: cannot run a"):
        Runner(agents={"support": make()})


def test_the_path_of_a_file_is_an_sqlite_store(tmp_path: Path):
    path = tmp_path / "50 % and more.db"
    assert Runner(asks, store=path).store.path == path


async def _raises(kind: type[GaplessError], said: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=said):
        found = call()
        if hasattr(found, "__aiter__"):
            async for _ in found:
                pass
        else:
            await found


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_what_a_run_is_asked_wrongly(store: str, tmp_path: Path):
    async with Runner(asks, store="memory://" if store == "memory" else tmp_path / "gapless.db") as runner:
        session = await runner.create_session("s1")
        start: Any = runner.start
        run: Any = await start("go", session_id="s1", run_id="r1")
        odd: Any = object()
        state = {"a": odd}
        said = {"role": "user", "id": "1", "content": "before"}
        tool = Tool(name="a", description="b", parameters=odd)
        odd_message = UserMessage(id="1", content="x", metadata=state)
        refused: list[tuple[type[GaplessError], str, Callable[[], Any]]] = [
            (UsageError, "limit: a number from 1 to 1e\\+06, not -1", lambda: runner.list_runs(limit=-1)),
            (UsageError, "limit: a number from 1 to 1e\\+06, not 0", lambda: runner.list_sessions(limit=0)),
            (InputInvalid, "session id: text, not 5", lambda: start("x", session_id=5)),
            (InputInvalid, "run id: text, not 5", lambda: start("x", run_id=5)),
            (
                InputInvalid,
                "not a SessionRecord; give its id",
                lambda: start("x", session_id=session),
            ),
            (InputInvalid, "state: a dict, not 'x'", lambda: start("x", state="x")),
            (InputInvalid, "cannot be written as JSON", lambda: start("x", state=state)),
            (InputInvalid, "cannot be written as JSON", lambda: runner.create_session(state=state)),
            (InputInvalid, "cannot be written as JSON", lambda: runner.update_state("s2", state)),
            (InputInvalid, "changes: a dict, not a list", lambda: runner.update_state("s2", [1])),
            (InputInvalid, "status: one of queued, .*, not 'done'", lambda: runner.list_runs(status="done")),
            (InputInvalid, "status: one of queued, .*, not 5", lambda: runner.list_runs(status=5)),
            (InputInvalid, "tools: a list, not 'abc'", lambda: start("x", tools="abc")),
            (InputInvalid, r"tools\[0\]: Expected `object`, got `str`", lambda: start("x", tools=["x"])),
            (InputInvalid, r"messages\[0\]: Expected `object`, got `str`", lambda: start("x", messages=["x"])),
            (InputInvalid, r"messages\[1\]: .* field `id`", lambda: start("x", messages=[said, {"role": "user"}])),
            (InputInvalid, r"messages\[0\].content: Expected", lambda: start("x", messages=[{**said, "content": 5}])),
            (InputInvalid, r"messages\[0\].*'nobody'", lambda: start("x", messages=[{**said, "role": "nobody"}])),
            (InputInvalid, r"context\[0\]: .* field `value`", lambda: start("x", context=[{"description": "d"}])),
            (
                InputInvalid,
                "context cannot be written",
                lambda: start("x", context=[Context(description="d", value=odd)]),
            ),
            (InputInvalid, "forwarded_props cannot be written as JSON", lambda: start("x", forwarded_props=odd)),
            (InputInvalid, "fingerprint cannot be written as JSON", lambda: start("x", fingerprint=odd)),
            (InputInvalid, "tools cannot be written as JSON", lambda: start("x", tools=[tool])),
            (InputInvalid, "messages cannot be written as JSON", lambda: start("x", messages=[odd_message])),
            (InputInvalid, "parts, not messages", lambda: start([{"role": "user", "content": "x"}])),
            (InputInvalid, "parts, not messages", lambda: start([UserMessage(id="1", content="x")])),
            (UsageError, "run_id: a run's id, not a Run", lambda: runner.attach(run)),
            (UsageError, "run_id: a run's id, not a Run", lambda: runner.cancel(run)),
            (UsageError, "after: a position, which is a whole number from 0 on, not '2'", lambda: run.events("2")),
            (CursorInvalid, "not -1", lambda: run.events(-1)),
            (CursorInvalid, "the cursor 99 is past its last event", lambda: run.entries(99)),
            (UsageError, "min_chars: a whole number from 1 on, not -1", lambda: run.text(min_chars=-1)),
            (
                UsageError,
                "max_delay_ms: a number of milli.*, or None, not '5'",
                lambda: run.text(max_delay_ms="5"),
            ),
        ]
        await runner.create_session("s2")
        for kind, why, call in refused:
            await _raises(kind, why, call)
        await run.cancel()
        await run.wait()
        assert [one.id for one in await runner.list_runs()] == ["r1"], "what is refused begins no run"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_what_is_given_as_over_http_is_taken(store: str, tmp_path: Path):
    seen: list[Any] = []

    async def looks(message: str, ctx: RunContext) -> AsyncIterator[str]:
        seen[:] = [ctx.messages, ctx.tools, ctx.context, ctx.forwarded_props, dict(ctx.state)]
        yield "seen"

    async with Runner(looks, store="memory://" if store == "memory" else tmp_path / "gapless.db") as runner:
        start: Any = runner.start
        run = await start(
            "now",
            session_id="s1",
            messages=[{"role": "user", "id": "1", "content": "before"}, UserMessage(id="2", content="and")],
            tools=[{"name": "a", "description": "b", "parameters": {}}, Tool(name="c", description="d")],
            context=[{"description": "d", "value": "v"}],
            forwarded_props={1: (2, 3)},
            state={1: 2},
        )
        await run.collect()
        messages, *rest = seen
        assert messages[:2] == [UserMessage(id="1", content="before"), UserMessage(id="2", content="and")]
        tools = [Tool(name="a", description="b", parameters={}), Tool(name="c", description="d")]
        assert rest == [tools, [Context(description="d", value="v")], {"1": [2, 3]}, {"1": 2}]
        changes: Any = {3: {4: (5,)}}
        for session in (await runner.update_state("s1", changes), await runner.get_session("s1")):
            assert session.state["3"] == {"4": [5]}
        created = await runner.create_session("s2", state=changes)
        assert created.state == (await runner.get_session("s2")).state == {"3": {"4": [5]}}


async def test_a_status_is_taken_as_the_text_that_it_is():
    async with Runner(asks) as runner:
        run = await _waiting(runner)
        waiting: Any = "waiting"
        assert [one.id for one in await runner.list_runs(status=waiting)] == [run.id]
        await run.cancel()
        await run.wait()
        assert not await runner.list_runs(status=waiting)


async def _waiting(runner: Runner) -> Run:
    run = await runner.start("go")
    async for event in run.events():
        if isinstance(event, RunFinishedEvent):
            break
    return run


async def test_an_answer_that_is_none_is_refused_and_says_why():
    async with Runner(asks) as runner:
        run: Any = await _waiting(runner)
        yes: Any = "yes"
        refused: list[tuple[Any, str]] = [
            (True, "answers are a list of ResumeEntry, not True"),
            ("q1", "not 'q1'"),
            ({"q1": True}, "not a dict"),
            ([True], "Expected `object`, got `bool`"),
            ([{"interrupt_id": "q1", "status": "resolved"}], "missing required field `interruptId`"),
            (
                [ResumeEntry(interrupt_id="q1", status=yes, payload=1)],
                "status is 'resolved' or 'cancelled', not 'yes'",
            ),
            ([ResumeEntry(interrupt_id="q1", status="resolved", payload=object())], "cannot be written as JSON"),
        ]
        for entries, said in refused:
            await _raises(InputInvalid, said, functools.partial(run.answer, entries))
        await run.answer([{"interruptId": "q1", "status": "resolved", "payload": 7}])  # as it comes over HTTP
        assert (await run.collect()).text == "go: resolved 7"


async def test_an_agents_exception_is_told_with_its_place_in_the_program_that_ran_it():
    async def broken(message: str) -> AsyncIterator[str]:
        yield "so far"
        raise ValueError("what people wrote")

    async with Runner(broken) as runner:
        run = await runner.start("go")
        with pytest.raises(AgentFailed) as caught:
            await run.collect()
    line = broken.__code__.co_firstlineno + 2
    assert str(caught.value) == f"the agent raised ValueError at {__file__}:{line}"
    assert caught.value.message == "the agent raised ValueError; see the server's log", "clients are not told where"
