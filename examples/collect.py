"""Aggregate while streaming: show the answer as it comes, and have it whole at the end."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner


async def main() -> None:
    agent = demo_agent(*typed("Machine learning finds the rule in the examples."))
    async with Runner(agent) as runner:
        run = await runner.start("Explain machine learning")
        async for text in run.text():
            print(text, end="", flush=True)
        response = await run.collect()  # a run can be read as often as wanted
        print(f"\n{len(response.chunks)} chunks, {len(response.text)} characters")


if __name__ == "__main__":
    asyncio.run(main())
