"""A generator that goes on at another worker: its steps are done once, what it said is not said again.

python examples/replays.py
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator

import gapless
from gapless import RunContext, Runner


async def search(what: str) -> list[str]:
    print(f"(searching {what})")
    return ["a room by the sea"]


async def book(found: list[str]) -> str:
    await asyncio.sleep(0.5)
    return f"{found[0]} is booked"


@gapless.replays
async def agent(ctx: RunContext) -> AsyncIterator[str]:
    found = await ctx.step("search", search, ctx.message)  # done once, whatever happens to the worker
    yield f"I found {found[0]}. "
    booked = await ctx.step("book", book, found)
    yield f"Now {booked}."


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/gapless.db"
        async with Runner(agent, store=store) as first:
            run = await first.start("a room", run_id="r")
            async for text in run.text():
                print(text)
                break  # the first worker stops here
        async with Runner(agent, store=store) as second:
            print((await (await second.attach("r")).collect()).text)


if __name__ == "__main__":
    asyncio.run(main())
