"""Pydantic AI's own spelling over durable runs: programs as its tutorials write them, with their imports changed, on
the provider's own model class and a service that answers as Gemini does."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.services import GEMINI, Service, gemini_chunk, service

IMPORTS = """
import asyncio
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import AsyncIterator, Optional

from pydantic import BaseModel, Field
from gapless.pydantic_ai import Agent, RunContext

agent = Agent(model='gemini-1.5-flash', result_type=str, system_prompt="Explain.")
query = "How do streams work?"
"""

PROGRAMS: dict[str, tuple[str, str]] = {
    "text, and the data at the end": (
        """
        async with agent.run_stream(query) as stream:
            pieces = []
            async for chunk in stream.stream_text(delta=True):
                print(chunk, end='', flush=True)
                pieces.append(chunk)
            result = await stream.get_data()
        assert ''.join(pieces) == result
        """,
        "They flow on.",
    ),
    "an agent of its own in a function": (
        """
        my_agent = Agent(model='gemini-1.5-flash', result_type=str, system_prompt="You help.")

        async def my_stream():
            async with my_agent.run_stream("Explain Python") as stream:
                async for chunk in stream.stream_text(delta=True):
                    print(chunk, end='', flush=True)
                result = await stream.get_data()

        await my_stream()
        """,
        "They flow on.",
    ),
    "progress": (
        """
        chunks_received, total_chars, start_time = 0, 0, datetime.now()
        async with agent.run_stream(query) as stream:
            async for chunk in stream.stream_text(delta=True):
                chunks_received += 1
                total_chars += len(chunk)
                elapsed = (datetime.now() - start_time).total_seconds()
            result = await stream.get_data()
        print(chunks_received, total_chars, elapsed > 0)
        """,
        "3 13 True",
    ),
    "left early": (
        """
        chars_received = 0
        try:
            async with agent.run_stream(query) as stream:
                async for chunk in stream.stream_text(delta=True):
                    chars_received += len(chunk)
                    if chars_received > 4:
                        break
                print("cancelled after", chars_received)
        except asyncio.CancelledError:
            print("never")
        print((await stream.run.record()).status.value)
        """,
        "cancelled after 5\ncancelled",
    ),
    "events": (
        """
        async with agent.run_stream(query) as stream:
            event_id = 0
            async for chunk in stream.stream_text(delta=True):
                event_id += 1
                print(f"id: {event_id}|event: message|data: {chunk}|", end='')
            print(f"id: {event_id + 1}|event: complete|data: {{\\"status\\": \\"done\\"}}|")
        """,
        "id: 1|event: message|data: They |id: 2|event: message|data: flow |id: 3|event: message|data: on.|"
        'id: 4|event: complete|data: {"status": "done"}|',
    ),
    "buffered": (
        """
        buffer = []
        async with agent.run_stream(query) as stream:
            async for chunk in stream.stream_text(delta=True):
                buffer.append(chunk)
                if len(''.join(buffer)) >= 7:
                    print(f"[{''.join(buffer)}]")
                    buffer = []
            if buffer:
                print(f"[{''.join(buffer)}]")
        """,
        "[They flow ]\n[on.]",
    ),
}


@pytest.fixture
async def gemini(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    chunks = [gemini_chunk({"text": text}) for text in ("They ", "flow ")]
    said = [*chunks, gemini_chunk({"text": "on."}, finish="STOP")]
    async with service(GEMINI, [said]) as up:
        monkeypatch.setenv("GOOGLE_API_KEY", "k")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", up.url)
        yield up


async def run_program(program: str, **names: Any) -> str:
    """What a program prints that awaits at its top, as a notebook's cell does."""
    code = compile(IMPORTS + textwrap.dedent(program), "program", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        running = eval(code, names | {"__name__": __name__})
        if inspect.iscoroutine(running):
            await running
    return printed.getvalue()


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_as_it_is_spelled(program: str, gemini: Service):
    text, printed = PROGRAMS[program]
    assert (await run_program(text)).strip() == printed


def calls(*named: tuple[str, dict[str, Any]]) -> list[Any]:
    first = {"thoughtSignature": "U0lHLUE="}
    parts = [
        {"functionCall": {"name": name, "args": args}} | (first if at == 0 else {})
        for at, (name, args) in enumerate(named)
    ]
    return [gemini_chunk(*parts, finish="STOP")]


TOOLS = """
@dataclass
class StreamingDeps:
    user_id: str
    session_id: str

class StreamingAnalysis(BaseModel):
    summary: str
    findings: list[str]

tools_agent = Agent(
    model='gemini-1.5-flash', result_type=StreamingAnalysis, deps_type=StreamingDeps, system_prompt="Use tools."
)

@tools_agent.tool
async def fetch_sales(ctx: RunContext[StreamingDeps], year: int) -> dict[str, any]:
    \"\"\"Fetch sales of a year.\"\"\"
    print("fetch", year, ctx.deps.user_id)
    return {"year": year, "total": 15_750_000}

@tools_agent.tool
def growth(previous: float, current: float) -> dict[str, float]:
    \"\"\"Growth in percent.\"\"\"
    print("growth", previous, current)
    return {"growth_percent": round((current - previous) / previous * 100, 2)}

deps = StreamingDeps(user_id="user_123", session_id="sess_456")
async with tools_agent.run_stream("Analyze", deps=deps) as stream:
    async for chunk in stream.stream():
        if hasattr(chunk, 'content'):
            print("text", chunk.content)
        elif hasattr(chunk, 'tool_name'):
            print("call", chunk.tool_name)
    result = await stream.get_data()
print(result.summary, len(result.findings), type(result).__name__)
"""


async def test_tools_deps_and_an_output_whose_type_the_agent_knows(gemini: Service):
    asked = [("fetch_sales", {"year": 2024}), ("growth", {"previous": 2.0, "current": 3.0})]
    gemini.script = [calls(*asked), calls(("final_result", {"summary": "Good.", "findings": ["a", "b"]}))]
    assert (await run_program(TOOLS)).split("\n")[:3] == [
        "fetch 2024 user_123",
        "growth 2.0 3.0",
        "Good. 2 StreamingAnalysis",
    ]


FLAKY = """
@agent.tool
async def flaky_tool(should_fail: bool = False) -> dict:
    \"\"\"May fail.\"\"\"
    if should_fail:
        raise ValueError("Simulated tool failure")
    return {"status": "success"}

try:
    async with agent.run_stream("Test the flaky tool") as stream:
        async for chunk in stream.stream_text(delta=True):
            print(chunk, end='', flush=True)
        result = await stream.get_data()
        print("never")
except ValueError as e:
    print("caught", e)
except Exception as e:
    print("unexpected", type(e), e)
"""


async def test_a_tools_own_exception_is_what_a_program_catches(gemini: Service):
    gemini.script = [calls(("flaky_tool", {"should_fail": True}))]
    assert await run_program(FLAKY) == "caught Simulated tool failure\n"
