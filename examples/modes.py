"""Streaming or all at once: the same run, the same journal, another way to call the model."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import RunConfig, Runner, StreamingMode


async def main() -> None:
    agent = demo_agent(*typed("Streaming shows an answer while it is being written."))
    async with Runner(agent) as runner:
        for mode in (StreamingMode.SSE, StreamingMode.NONE):
            run = await runner.start("What is streaming?", config=RunConfig(streaming_mode=mode))
            response = await run.collect()
            print(f"{mode.name}: {len(response.chunks)} chunks: {response.text}")


if __name__ == "__main__":
    asyncio.run(main())
