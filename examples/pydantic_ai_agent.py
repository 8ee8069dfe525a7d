"""A Pydantic AI agent with a tool, dependencies and a typed output. Give it a model, or see it with a scripted one.

python examples/pydantic_ai_agent.py google:gemini-2.5-flash
"""

import asyncio
import sys
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic_ai import Agent, RunContext

from gapless import Runner
from gapless.testing import Chunk, Output, ToolCall, pydantic_ai_model


@dataclass
class User:
    id: str
    city: str


class Forecast(BaseModel):
    city: str
    sky: str


SCRIPT: list[Chunk] = [ToolCall("weather"), Output({"city": "Paris", "sky": "sunny"})]
MODEL = sys.argv[1] if len(sys.argv) > 1 else pydantic_ai_model(*SCRIPT)
agent = Agent(MODEL, deps_type=User, output_type=Forecast, instructions="You know the weather.")


@agent.tool
async def weather(ctx: RunContext[User]) -> str:
    """The weather where the user lives."""
    return f"sunny in {ctx.deps.city}"


async def main() -> None:
    async with Runner(agent) as runner:
        user = User(id="u1", city="Paris")
        async with runner.run_stream("How will it be?", deps=user, user_id=user.id) as stream:
            forecast = await stream.get_output()
    print(f"{forecast.city}: {forecast.sky}")


asyncio.run(main())
