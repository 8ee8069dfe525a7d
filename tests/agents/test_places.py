"""What was raised in a run, by its class and the user's own line."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gapless import Runner
from gapless.agents.base import RunContext
from gapless.agents.places import class_and_place, class_of, only_one, place_of, text_of_error
from gapless.errors import AgentFailed, RunLimit, ToolFailed
from gapless.testing import ToolCall, openai_agents_model
from tests.support.frameworks import FRAMEWORKS

SECRET = "what people wrote"


def here(mark: str) -> str:
    """Return the place of the line in this file that ends with this mark."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}")]
    return f"{__file__}:{number}"


async def fails(text: str = SECRET) -> None:
    raise ValueError(text)  # fails


async def fails_too() -> None:
    raise KeyError(SECRET)  # fails too


async def grouped() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fails())


async def several() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fails())
        tasks.create_task(fails_too())


async def nested() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(grouped())


async def by_hand() -> None:
    raise ExceptionGroup(SECRET, [ValueError(SECRET)])  # by hand


async def from_another() -> None:
    try:
        await fails()
    except ValueError as error:
        raise LookupError(SECRET) from error  # from another


def raises() -> None:
    raise ValueError(SECRET)  # raises


async def in_a_thread() -> None:
    await asyncio.to_thread(raises)


async def in_a_library() -> None:
    json.loads("{" + SECRET)  # in a library


def generator() -> Iterator[int]:
    yield 1
    raise ValueError(SECRET)  # generator


async def stops() -> None:
    raise StopAsyncIteration  # stops


async def is_cancelled() -> None:
    raise asyncio.CancelledError(SECRET)  # is cancelled


async def in_a_generator() -> None:
    await asyncio.to_thread(list, generator())


@pytest.mark.parametrize(
    ("raising", "kind", "mark"),
    [
        (grouped, "ValueError", "fails"),
        (several, "ValueError and 1 more", "fails"),
        (nested, "ValueError", "fails"),
        (by_hand, "ValueError", "by hand"),
        (from_another, "LookupError", "from another"),
        (in_a_thread, "ValueError", "raises"),
        (in_a_library, "JSONDecodeError", "in a library"),
        (in_a_generator, "ValueError", "generator"),
        (stops, "StopAsyncIteration", "stops"),
        (is_cancelled, "CancelledError", "is cancelled"),
    ],
)
async def test_an_agent_that_fails_is_told_by_what_was_raised_and_the_line_of_the_user(
    raising: Callable[[], Any], kind: str, mark: str, caplog: pytest.LogCaptureFixture
):
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        yield "shown"
        await raising()

    caplog.set_level(logging.INFO)
    async with Runner(agents={"a": agent}) as runner:
        run = await runner.start("x", run_id="r")
        with pytest.raises(AgentFailed) as caught:
            await run.collect()
    assert caught.value.message == f"the agent raised {kind}; see the server's log"
    assert str(caught.value) == f"the agent raised {kind} at {here(mark)}"
    assert f"run r: agent a raised {kind} at {here(mark)}" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "openai agents"])
async def test_what_a_task_of_a_tool_raised_is_told(framework: str):
    async def look(x: int) -> str:
        """Looks."""
        await grouped()
        return ""

    made = FRAMEWORKS[framework](ToolCall("look", {"x": 1}), "done", tools=[look])
    async with Runner(made.agent) as runner:
        with pytest.raises(ToolFailed) as caught:
            await (await runner.start("x")).collect()
    assert str(caught.value) == f"tool look raised ValueError at {here('fails')}"


async def test_what_a_tool_raised_is_told_where_the_framework_wraps_it():
    from agents import Agent, function_tool

    async def look(x: int) -> str:
        """Looks."""
        await fails()
        return ""

    tool = function_tool(look, failure_error_function=None)
    agent = Agent(name="a", model=openai_agents_model(ToolCall("look", {"x": 1}), "done"), tools=[tool])
    async with Runner(agent) as runner:
        with pytest.raises(ToolFailed) as caught:
            await (await runner.start("x")).collect()
    assert caught.value.message == "tool look raised ValueError; see the server's log"
    assert str(caught.value) == f"tool look raised ValueError at {here('fails')}"


async def test_a_limit_that_a_task_comes_to_is_told_as_such():
    async def over() -> None:
        raise RunLimit("too much")

    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(over())
        yield "never"

    async with Runner(agent) as runner:
        with pytest.raises(RunLimit, match="too much"):
            await (await runner.start("x")).collect()


def test_a_line_in_an_archive_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("zipped_agent.py", "import json\n\ndef run():\n    json.loads('{')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "app.zip"))
    try:
        with pytest.raises(ValueError) as caught:
            importlib.import_module("zipped_agent").run()
    finally:
        sys.modules.pop("zipped_agent", None)
    assert class_and_place(caught.value) == f"JSONDecodeError at {tmp_path / 'app.zip' / 'zipped_agent.py'}:4"


def test_what_is_raised_by_a_library_alone_is_told_by_its_line():
    with pytest.raises(ValueError) as caught:
        json.loads("{")
    alone = caught.value.with_traceback(caught.tb.tb_next)
    assert "decoder.py:" in place_of(alone)


def test_what_was_not_raised_has_no_place():
    assert place_of(ValueError()) == "unknown place"
    assert (
        class_of(ExceptionGroup("", [ExceptionGroup("", [KeyError(), OSError()]), OSError()])) == "KeyError and 2 more"
    )


def test_a_group_of_several_is_none_of_them():
    group = ExceptionGroup("", [KeyError(), OSError()])
    assert only_one(group) is group


def test_a_text_that_cannot_be_made_is_empty():
    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("nothing to say")

    assert text_of_error(Speechless()) == ""
    assert text_of_error(ExceptionGroup("outer", [ValueError("inner")])) == "inner"
