"""Tool calls and their results, shown as they happen, between the pieces of text."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner, TextMessageContentEvent, ToolCallArgsEvent, ToolCallResultEvent, ToolCallStartEvent
from gapless.testing import ToolCall


async def fetch_sales(year: int) -> dict[str, int]:
    """The sales of a year, from a slow database."""
    await asyncio.sleep(0.2)
    return {"year": year, "total": 15_750_000}


async def main() -> None:
    agent = demo_agent(
        *typed("Let me look. "),
        ToolCall("fetch_sales", {"year": 2024}, result={"year": 2024, "total": 15_750_000}),
        *typed("In 2024 we sold for $15.75 million."),
        tools=[fetch_sales],
    )
    async with Runner(agent) as runner:
        async for event in runner.run_async("How were our sales in 2024?"):
            match event:
                case TextMessageContentEvent(delta=text):
                    print(text, end="", flush=True)
                case ToolCallStartEvent(tool_call_name=name):
                    print(f"\n[tool {name}] ", end="", flush=True)
                case ToolCallArgsEvent(delta=arguments):
                    print(arguments, end="", flush=True)
                case ToolCallResultEvent(content=result):
                    print(f"\n[result] {result}")
        print()


if __name__ == "__main__":
    asyncio.run(main())
