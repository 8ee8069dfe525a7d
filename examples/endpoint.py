"""An agent by URL: a durable journal in front of a model server that has none. Give it yours, or see it with one here.

python examples/endpoint.py "http://127.0.0.1:11434/v1?model=qwen3"
"""

import asyncio
import sys

from gapless import GaplessError, Runner


async def ask(url: str) -> None:
    async with Runner(url) as runner:
        run = await runner.start("What are you?")
        async for text in run.text():
            print(text, end="", flush=True)
        print(f"\n{(await run.record()).last_seq} events in the journal")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        asyncio.run(ask(sys.argv[1]))
    except GaplessError as error:
        sys.exit(f"{error.code}: {error}")
