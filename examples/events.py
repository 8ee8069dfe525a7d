"""Every typed event of a run, as it happens: reasoning, tool calls, their results, text, the end."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner, TextMessageContentEvent
from gapless.testing import Reasoning, ToolCall


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def main() -> None:
    agent = demo_agent(
        Reasoning("Paris: look it up."),
        ToolCall("weather", {"city": "Paris"}, result="sunny in Paris"),
        *typed("It is sunny."),
        tools=[weather],
    )
    async with Runner(agent) as runner:
        async for event in runner.run_async("How is the weather in Paris?"):
            text = repr(event.delta) if isinstance(event, TextMessageContentEvent) else ""
            print(type(event).__name__, text)


if __name__ == "__main__":
    asyncio.run(main())
