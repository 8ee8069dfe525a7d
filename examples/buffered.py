"""Fewer, larger pieces: at least so many characters at a time, and none held back for longer than that."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner


async def main() -> None:
    agent = demo_agent(*typed("An index is a sorted copy of a column, so that rows are found without a scan. " * 3))
    async with Runner(agent) as runner:
        run = await runner.start("Explain database indexing")
        async for text in run.text(min_chars=50, max_delay_ms=500):
            print(f"[{len(text)} characters] {text}")


if __name__ == "__main__":
    asyncio.run(main())
