"""What checkpoints cost, in a process of its own: `python -m bench.checkpoints AGENT RUNS`.

The agent takes `STEPS` steps: its model calls a tool, which returns `RESULT`. One JSON object is printed, µs of CPU:
`save_us` of one save at the end of such a turn; `step_us` of a step with its saves, through Gapless and a store in
memory, `unsaved_us` without them, and `alone_us` where the framework runs by itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import gapless
from gapless import RunConfig, RunContext, Runner
from gapless.journals.memory import Memory, MemoryStore

STEPS = 11
"""A Pydantic AI turn has 22 messages then."""
LAST_SAVES = 4
RESULT = "a fact that was looked up, " * 8
SERIES = 3
"""Each figure is that of the quickest of so many: others use the processor too."""

saves_s: list[float] = []


class _Counted:
    """Awaits what is awaited in its place, and counts the CPU of that alone, not of what runs while it waits."""

    def __init__(self, awaited: Awaitable[Any]) -> None:
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        steps, took_s, sent = self._awaited.__await__(), 0.0, None
        while True:
            began = time.process_time()
            try:
                waits = steps.send(sent)
            except StopIteration as end:
                saves_s.append(took_s + time.process_time() - began)
                return end.value
            took_s += time.process_time() - began
            sent = yield waits


def _count(kind: type, name: str) -> None:
    save = getattr(kind, name)
    setattr(kind, name, lambda self, *args, **options: _Counted(save(self, *args, **options)))


async def look(number: int) -> str:
    """Look it up."""
    return RESULT


Alone = Callable[[], Awaitable[object]]


def pydantic_ai() -> tuple[Any, Alone]:
    from pydantic_ai import Agent
    from pydantic_ai import messages as m
    from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

    from gapless.agents.pydantic_ai_ledger import Ledger

    _count(Ledger, "save")

    async def answer(messages: list[m.ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        number = sum(isinstance(message, m.ModelResponse) for message in messages)
        yield "Let me see. " if number < STEPS else "Done."
        if number < STEPS:
            yield {1: DeltaToolCall(name="look", json_args=f'{{"number": {number}}}', tool_call_id=f"c{number}")}

    async def heard(ctx: object, events: Any) -> None:
        async for _ in events:
            pass

    agent = Agent(FunctionModel(stream_function=answer), tools=[look])
    return agent, lambda: agent.run("go", event_stream_handler=heard)


def adk() -> tuple[Any, Alone]:
    from google.adk.agents import LlmAgent
    from google.adk.agents.run_config import RunConfig as ADKRunConfig
    from google.adk.agents.run_config import StreamingMode
    from google.adk.models.base_llm import BaseLlm
    from google.adk.models.llm_request import LlmRequest
    from google.adk.models.llm_response import LlmResponse
    from google.adk.runners import InMemoryRunner
    from google.genai import types

    from gapless.agents.adk_checkpoints import Progress

    _count(Progress, "_flush")

    class Model(BaseLlm):
        model: str = "scripted"

        async def generate_content_async(
            self, llm_request: LlmRequest, stream: bool = False
        ) -> AsyncGenerator[LlmResponse, None]:
            number = sum(content.role == "model" for content in llm_request.contents)
            parts = [types.Part(text="Let me see. " if number < STEPS else "Done.")]
            if number < STEPS:
                call = types.FunctionCall(name="look", args={"number": number}, id=f"c{number}")
                parts.append(types.Part(function_call=call))
            yield LlmResponse(content=types.Content(role="model", parts=parts), partial=False)

    agent = LlmAgent(name="looker", model=Model(), tools=[look])
    runner = InMemoryRunner(agent, app_name="looker")

    async def alone() -> None:
        session = await runner.session_service.create_session(app_name="looker", user_id="u")
        message = types.Content(role="user", parts=[types.Part(text="go")])
        config = ADKRunConfig(streaming_mode=StreamingMode.SSE)
        async for _ in runner.run_async(user_id="u", session_id=session.id, new_message=message, run_config=config):
            pass

    return agent, alone


def functions() -> tuple[Any, Alone]:
    from gapless.agents.replaying import Replay

    _count(Replay, "_save")

    @gapless.replays
    async def agent(ctx: RunContext) -> AsyncIterator[str]:
        for number in range(STEPS):
            yield "Let me see. "
            await ctx.step("look", look, number)
        yield "Done."

    async def alone() -> None:
        for number in range(STEPS):
            await look(number)

    return agent, alone


AGENTS = {"pydantic-ai": pydantic_ai, "adk": adk, "functions": functions}


logging.getLogger("google_adk").setLevel(logging.ERROR)  # its model tells no usage


async def _per_step_us(runs: int, run: Alone) -> float:
    began = time.process_time()
    for _ in range(runs):
        await run()
    return (time.process_time() - began) / runs / STEPS * 1e6


async def measure(name: str, runs: int) -> dict[str, float]:
    """Take the three in turns."""
    agent, alone = AGENTS[name]()
    found: dict[str, list[float]] = {}
    async with Runner(agent, store=MemoryStore(Memory())) as runner:  # one that others may have, too

        async def run(on_worker_lost: Any) -> None:
            saves_s.clear()
            await (await runner.start("go", config=RunConfig(on_worker_lost=on_worker_lost))).wait()
            if saves_s and on_worker_lost == "continue":
                last = saves_s[-LAST_SAVES:]
                found.setdefault("save_us", []).append(sum(last) / len(last) * 1e6)
                found["saves"] = [len(saves_s)]

        ways: dict[str, Alone] = {
            "step_us": lambda: run("continue"),
            "unsaved_us": lambda: run("fail"),
            "alone_us": alone,
        }
        for way in ways.values():
            await way()  # what the first run alone has to import and build is not counted
        for _ in range(SERIES):
            for value, way in ways.items():
                found.setdefault(value, []).append(await _per_step_us(runs, way))
    return {value: min(all) for value, all in found.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2])))))
