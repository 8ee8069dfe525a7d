"""Plain Python as an agent: functions and generators, sync or async, with the message or with the whole context."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from gapless import Runner
from gapless.agents.base import AgentItem, RunContext
from gapless.events import CustomEvent


def shout(message: str) -> str:
    """A function: its answer comes in one piece. Sync code runs in a thread and blocks no other run."""
    return message.upper()


def spell(message: str) -> Iterator[str]:
    """A generator: each piece is delivered as it comes."""
    yield from message


async def remember(message: str, ctx: RunContext) -> AsyncIterator[AgentItem]:
    """With the context: history, dependencies, state; and any event beside the text."""
    ctx.state["turns"] = ctx.state.get("turns", 0) + 1
    yield CustomEvent(name="turn", value=ctx.state["turns"])
    yield f"{ctx.deps['name']}, this is message {len(ctx.messages)}: {message}"


async def main() -> None:
    async with Runner(agents={"shout": shout, "spell": spell, "remember": remember}) as runner:
        for agent in ("shout", "spell"):
            print((await (await runner.start("hello", agent=agent)).collect()).chunks)
        for message in ("hello", "again"):
            run = await runner.start(message, agent="remember", session_id="s1", deps={"name": "Ada"})
            print((await run.collect()).text)


asyncio.run(main())
