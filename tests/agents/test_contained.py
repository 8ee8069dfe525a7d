"""Exits of what runs in tasks: the run fails, and neither the process nor another run with it."""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import gc
import signal
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gapless import Runner
from gapless.agents.base import RunContext
from gapless.agents.contained import contain
from gapless.errors import AgentFailed, RunFailed, ToolFailed
from gapless.testing import ToolCall
from tests.support.agents import Gated
from tests.support.frameworks import FRAMEWORKS
from tests.support.waiting import HANG_S


async def leave(x: int) -> str:
    """Leaves."""
    argparse.ArgumentParser(prog="", exit_on_error=True).parse_args(["--no-such-option"])
    return ""


async def leave_by_a_task(x: int) -> str:
    """Leaves by a task of its own."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(leave(x))
    return ""


async def interrupt(x: int) -> str:
    """Does as Ctrl-C does."""
    raise KeyboardInterrupt


async def in_a_task(ctx: RunContext) -> AsyncIterator[str]:
    yield "shown"
    await asyncio.gather(leave(1), asyncio.sleep(0))


async def in_a_thread(ctx: RunContext) -> AsyncIterator[str]:
    yield "shown"
    await asyncio.create_task(asyncio.to_thread(lambda: sys.exit(2)))


async def fails_beside_another(runner: Runner, agent: Any) -> RunFailed:
    """Run the agent until it fails, beside another run that has to go on."""
    other = Gated("a", "b")
    running = await runner.start("x", agent=other)
    run = await runner.start("x", agent=agent)
    with pytest.raises(RunFailed) as caught:
        await run.collect()
    other.let(3)
    assert (await running.collect()).text == "ab"
    return caught.value


@pytest.mark.parametrize("tool", [leave, interrupt])
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_tool_that_exits_fails_its_run_as_one_that_raises(framework: str, tool: Any):
    made = FRAMEWORKS[framework](ToolCall(tool.__name__, {"x": 1}), "done", tools=[tool])
    async with Runner(made.agent) as runner:
        error = await fails_beside_another(runner, made.agent)
    assert isinstance(error, ToolFailed)
    kind = "KeyboardInterrupt" if tool is interrupt else "SystemExit"
    assert f"tool {tool.__name__} raised {kind} at " in str(error)
    assert f"{__file__}:" in str(error)


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_task_of_a_tool_that_exits_has_raised(framework: str):
    made = FRAMEWORKS[framework](ToolCall("leave_by_a_task", {"x": 1}), "done", tools=[leave_by_a_task])
    async with Runner(made.agent) as runner:
        if framework == "openai agents":  # which tells the model what a tool raises
            assert (await (await runner.start("x")).collect()).text == "done"
            assert "Exited" not in made.requests()[-1]
        else:
            error = await fails_beside_another(runner, made.agent)
            assert isinstance(error, ToolFailed)
            assert "tool leave_by_a_task raised SystemExit at " in str(error)


@pytest.mark.parametrize("agent", [in_a_task, in_a_thread])
async def test_a_task_of_an_agent_that_exits_fails_its_run(agent: Any):
    async with Runner(agents={"a": agent}) as runner:
        error = await fails_beside_another(runner, agent)
    assert isinstance(error, AgentFailed)
    assert "the agent raised SystemExit at " in str(error)
    assert f"{__file__}:" in str(error)


STOPPED = """
import asyncio, signal, sys
from gapless import Runner

async def stops(message):
    yield "shown"
    if message == "task":
        await asyncio.gather(stop())
    else:
        await stop()

async def stop():
    signal.raise_signal(signal.SIGUSR1 if sys.argv[2] == "exit" else signal.SIGINT)

async def main():
    async with Runner(stops) as runner:
        await (await runner.start(sys.argv[1])).wait()

class Ends:
    def __call__(self, number, frame):
        sys.exit(7)

signal.signal(signal.SIGUSR1, Ends())
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("interrupt", -signal.SIGINT)])
@pytest.mark.parametrize("where", ["agent", "task"])
def test_an_exit_that_a_signal_asks_for_ends_the_process_whatever_runs_then(where: str, how: str, code: int):
    ended = subprocess.run([sys.executable, "-c", STOPPED, where, how], capture_output=True, timeout=HANG_S)
    assert ended.returncode == code, ended.stderr


async def test_tasks_are_made_as_the_loop_makes_them_and_after_the_last_run_as_before():
    made: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        async with Runner(in_a_task) as runner:
            other = await runner.start("x", agent=Gated("a"))
            with pytest.raises(AgentFailed):
                await (await runner.start("x")).collect()
            assert loop.get_task_factory() is not factory
            await other.cancel()
        assert made.count("leave") == 1
        assert loop.get_task_factory() is factory
    finally:
        loop.set_task_factory(None)


async def test_a_task_that_no_run_makes_is_left_as_it_is():
    let_go = contain(asyncio.get_running_loop())
    try:
        coro = asyncio.sleep(0)
        task = asyncio.create_task(coro, name="theirs", context=contextvars.copy_context())
        assert task.get_coro() is coro
        await task
    finally:
        let_go()
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_a_task_of_a_run_that_is_cancelled_before_its_first_step_warns_of_nothing():
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        task = asyncio.create_task(asyncio.sleep(1), name="slow")
        assert "sleep" in repr(task)
        task.cancel()
        await asyncio.wait({task})
        gc.collect()
        yield f"{task.get_name()} {task.cancelled()}"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with Runner(agent) as runner:
            assert (await (await runner.start("x")).collect()).text == "slow True"
