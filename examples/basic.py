"""Without a server: start a run, show its text as it comes, see how it ended."""

import asyncio
from collections.abc import AsyncIterator

from gapless import Runner


async def agent(message: str) -> AsyncIterator[str]:
    for word in f"You said: {message}".split():
        yield word + " "


async def main() -> None:
    async with Runner(agent) as runner:
        run = await runner.start("Hello", session_id="s1")
        async for text in run.text():
            print(text, end="", flush=True)
        print()
        print((await run.record()).status.value)


asyncio.run(main())
