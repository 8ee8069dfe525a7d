"""The agents with nobody listening: what the scripted model, its timer and its framework cost by themselves.

`python -m bench.alone AGENT STREAMS HZ N WINDOW_S SETTLE_S` prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import uvloop

from bench import agents

GOLDEN = 0.618033988749895
events = 0


async def run_generator(message: str) -> None:
    global events
    async for _ in agents.generator_agent(message):
        events += 1


def run_pydantic_ai() -> Callable[[str], Coroutine[Any, Any, None]]:
    from pydantic_ai import AgentStreamEvent, PartDeltaEvent, PartStartEvent, RunContext

    agent = agents.pydantic_ai_agent()

    async def handle(_ctx: RunContext[None], stream: AsyncIterable[AgentStreamEvent]) -> None:
        global events
        async for event in stream:
            if isinstance(event, PartDeltaEvent | PartStartEvent):
                events += 1

    async def run(message: str) -> None:
        await agent.run(message, event_stream_handler=handle)

    return run


def run_adk() -> Callable[[str], Coroutine[Any, Any, None]]:
    import itertools

    from google.adk.agents.run_config import RunConfig, StreamingMode
    from google.adk.runners import InMemoryRunner
    from google.genai import types

    runner = InMemoryRunner(agents.adk_agent(), app_name="scripted")
    numbers = itertools.count()

    async def run(message: str) -> None:
        global events
        session_id = f"s{next(numbers)}"
        await runner.session_service.create_session(app_name="scripted", user_id="u", session_id=session_id)
        async for event in runner.run_async(
            user_id="u",
            session_id=session_id,
            new_message=types.Content(role="user", parts=[types.Part(text=message)]),
            run_config=RunConfig(streaming_mode=StreamingMode.SSE),
        ):
            events += bool(event.partial)

    return run


def run_langgraph() -> Callable[[str], Coroutine[Any, Any, None]]:
    graph = agents.langgraph_agent()

    async def run(message: str) -> None:
        global events
        given = {"messages": [("user", message)]}
        modes = ["messages", "updates", "custom"]
        async with aclosing(graph.astream(given, stream_mode=modes, subgraphs=True, version="v2")) as stream:
            async for part in stream:
                events += part["type"] == "messages" and bool(part["data"][0].content)

    return run


def run_openai_agents() -> Callable[[str], Coroutine[Any, Any, None]]:
    from agents import Runner

    agent = agents.openai_agents_agent()

    async def run(message: str) -> None:
        global events
        async for event in Runner.run_streamed(agent, message).stream_events():
            events += event.type == "raw_response_event" and event.data.type == "response.output_text.delta"

    return run


def run_agno() -> Callable[[str], Coroutine[Any, Any, None]]:
    agent = agents.agno_agent()

    async def run(message: str) -> None:
        global events
        async for event in agent.arun(message, stream=True, stream_events=True):
            events += event.event == "RunContent"

    return run


AGENTS: dict[str, Callable[[], Callable[[str], Coroutine[Any, Any, None]]]] = {
    "generator": lambda: run_generator,
    "pydantic-ai": run_pydantic_ai,
    "adk": run_adk,
    "langgraph": run_langgraph,
    "openai-agents": run_openai_agents,
    "agno": run_agno,
}


async def measure(agent: str, streams: int, hz: float, n: int, window_s: float, settle_s: float) -> dict[str, float]:
    run = AGENTS[agent]()
    await run(agents.script(4))  # what the first run alone has to import and build is not counted
    tasks = [asyncio.create_task(run(agents.script(n, hz, i * GOLDEN % 1))) for i in range(streams)]
    if hz:
        await asyncio.sleep(settle_s)
    events0, cpu0, wall0 = events, time.process_time(), time.monotonic()
    if hz:
        await asyncio.sleep(window_s)
    else:
        await asyncio.gather(*tasks)
    counted, cpu, wall = events - events0, time.process_time() - cpu0, time.monotonic() - wall0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {"events": counted, "cpu_s": cpu, "wall_s": wall}


def main() -> None:
    agent, streams, hz, n, window_s, settle_s = sys.argv[1:]
    print(json.dumps(uvloop.run(measure(agent, int(streams), float(hz), int(n), float(window_s), float(settle_s)))))


if __name__ == "__main__":
    main()
