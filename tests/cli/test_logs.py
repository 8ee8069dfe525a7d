"""What a server logs of an agent that fails: class and place, and no text, whoever logs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAILING = '''
import asyncio, sys
from google.adk.agents import LlmAgent
from pydantic_ai import Agent
from gapless import Runner
from gapless.cli.logs import log_to_stderr
from gapless.testing import ToolCall, adk_model, pydantic_ai_model

def look(name: str) -> str:
    """Looks."""
    raise KeyError(f"what {name} wrote")

call = ToolCall("look", {"name": "Ada"})
agents = {
    "adk": LlmAgent(name="a", model=adk_model(call), tools=[look]),
    "pydantic-ai": Agent(pydantic_ai_model(call), tools=[look]),
}

async def main():
    log_to_stderr(sys.argv[1])
    async with Runner(agents=agents) as runner:
        for name in agents:
            await (await runner.start("?", agent=name, run_id=name)).wait()

asyncio.run(main())
'''


@pytest.mark.parametrize("level", ["info", "debug"])
def test_the_text_of_an_exception_is_logged_at_debug_alone(tmp_path: Path, level: str) -> None:
    file = tmp_path / "failing.py"
    file.write_text(FAILING, encoding="utf-8")
    log = subprocess.run([sys.executable, file, level], capture_output=True, text=True, timeout=60, check=True).stderr
    for name in ("adk", "pydantic-ai"):
        (line,) = [line for line in log.splitlines() if f"run={name} tool look raised" in line]
        assert line.endswith(f"KeyError at {file}:11")
    assert ("what Ada wrote" in log) == (level == "debug")
