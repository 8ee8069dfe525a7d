"""The whole response out of any stream's events, in order: thoughts, text, tool calls that are complete."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner, StreamingResponseAggregator
from gapless.testing import Reasoning, ToolCall


def blocks() -> int:
    """The number of blocks of the chain."""
    return 840_000


async def main() -> None:
    agent = demo_agent(
        *[Reasoning("How many "), Reasoning("are there?")],
        *typed("Let me count. "),
        ToolCall("blocks", result=840_000),
        *typed("A blockchain is a list: 840000 blocks so far."),
        tools=[blocks],
    )
    aggregator = StreamingResponseAggregator()
    async with Runner(agent) as runner:
        async for event in runner.run_async("Explain blockchain"):
            aggregator.add(event)
    response = aggregator.get_response()
    for part in response.content.parts:
        print(part)
    print(f"{len(response.text)} characters of text, {len(response.thoughts)} of thought")


if __name__ == "__main__":
    asyncio.run(main())
