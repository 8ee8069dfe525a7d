"""An agent of the OpenAI Agents SDK that hands over to another. Give it a model, or see it with scripted ones.

python examples/openai_agents_agent.py gpt-5-mini
"""

import asyncio
import sys

from agents import Agent, Model, function_tool

from gapless import Runner
from gapless.events import StepStartedEvent, TextMessageContentEvent
from gapless.testing import Chunk, ToolCall, openai_agents_model


def model(*script: Chunk) -> str | Model:
    """The model of the command line, or one that says the script."""
    return sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 else openai_agents_model(*script)


@function_tool
async def refund(order: int) -> str:
    """Give the money back."""
    return f"order {order} is refunded"


# The script of the second begins with what the first has said.
billing = Agent(
    name="billing", model=model("", ToolCall("refund", {"order": 7}), "The money is on its way."), tools=[refund]
)
desk = Agent(name="desk", model=model("One moment. ", ToolCall("transfer_to_billing")), handoffs=[billing])


async def main() -> None:
    async with Runner(desk) as runner:
        run = await runner.start("I want my money back for order 7.", session_id="s1")
        async for event in run.events():
            if isinstance(event, TextMessageContentEvent):
                print(event.delta, end="", flush=True)
            elif isinstance(event, StepStartedEvent):
                print(f"[{event.step_name}] ", end="")
    print()


if __name__ == "__main__":
    asyncio.run(main())
