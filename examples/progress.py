"""How a stream is getting on: chunks, characters, seconds, characters per second, on standard error."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Progress, Runner


async def main() -> None:
    agent = demo_agent(*typed("An essay on artificial intelligence. " * 10))
    async with Runner(agent) as runner:
        run = await runner.start("Write a long essay on AI")
        progress = Progress(every_s=0.2)
        async for text in run.text():
            print(text, end="", flush=True)
            progress.add(text)
        print()
        progress.finish()


if __name__ == "__main__":
    asyncio.run(main())
