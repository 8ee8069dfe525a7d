"""Timeout protection: the run ends with a clear error, the text that was there is kept."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import RunConfig, Runner
from gapless.errors import RunTimeout
from gapless.testing import Delay


async def main() -> None:
    agent = demo_agent(*typed("The universe is "), Delay(60), "big.")
    async with Runner(agent) as runner:
        run = await runner.start("Explain the universe", config=RunConfig(timeout=0.5))
        try:
            async for text in run.text():
                print(text, end="", flush=True)
        except RunTimeout as error:
            print(f"\n[{error.code}: {error}]")
        kept = (await runner.messages(run.session_id))[-1]
        print(f"kept: {kept.content!r}, {kept.metadata}")


if __name__ == "__main__":
    asyncio.run(main())
