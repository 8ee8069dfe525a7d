"""The Python client: start a run and follow it, through any number of cuts. `python async_client.py [server]`"""

import asyncio
import sys

from gapless import GaplessClient, GaplessError, RunErrorEvent, TextMessageContentEvent


async def main(server: str) -> None:
    async with GaplessClient(server) as client:
        run = await client.start("Explain SSE")
        async for _id, event in client.follow(run.id):
            match event:
                case TextMessageContentEvent(delta=text):
                    print(text, end="", flush=True)
                case RunErrorEvent(message=message):
                    sys.exit(f"\nthe run failed: {message}")
        print()


try:
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8000"))
except GaplessError as error:  # such as a server that is not there
    sys.exit(f"{error.code}: {error}")
