"""A Google ADK agent with a tool that reads what the run was given. Give it a model, or see it with a scripted one.

python examples/adk_agent.py gemini-2.5-flash
"""

import asyncio
import sys

from google.adk.agents import LlmAgent
from google.adk.sessions import InMemorySessionService
from google.adk.tools.tool_context import ToolContext

from gapless import RunConfig, Runner, StreamingMode
from gapless.testing import Chunk, ToolCall, adk_model, words


async def weather(tool_context: ToolContext) -> str:
    """The weather where the user lives."""
    return f"sunny in {tool_context.state['temp:deps']['city']}"  # the run's deps


SCRIPT: list[Chunk] = [ToolCall("weather"), *words("It is sunny in Paris.")]
MODEL = sys.argv[1] if len(sys.argv) > 1 else adk_model(*SCRIPT)
agent = LlmAgent(name="assistant", model=MODEL, instruction="You know the weather.", tools=[weather])


async def main() -> None:
    config = RunConfig(streaming_mode=StreamingMode.SSE, response_modalities=["TEXT"], max_llm_calls=10)
    # Without session_service= the sessions are kept with the journals.
    async with Runner(agent, app_name="demo", session_service=InMemorySessionService(), config=config) as runner:
        run = await runner.start("How will it be?", user_id="u1", session_id="s1", deps={"city": "Paris"})
        async for text in run.text():
            print(text, end="", flush=True)
    print()


asyncio.run(main())
