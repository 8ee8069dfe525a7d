"""Plain Python as an agent: functions and generators, sync or async, with the message or with the whole context."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from gapless import AgentItem, AssistantMessage, CustomEvent, RunContext, Runner, UserMessage, text_of


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


def minutes(ctx: RunContext) -> Iterator[str]:
    """Who said what: a message is a struct of `gapless.events`, one class for each role."""
    for message in ctx.messages:
        match message:
            case UserMessage(content=content):
                yield f"You: {text_of(content)}\n"
            case AssistantMessage(content=str(text)):
                yield f"I: {text}\n"


async def main() -> None:
    async with Runner(agents={"shout": shout, "spell": spell, "remember": remember, "minutes": minutes}) as runner:
        for agent in ("shout", "spell"):
            print((await (await runner.start("hello", agent=agent)).collect()).chunks)
        for message in ("hello", "again"):
            run = await runner.start(message, agent="remember", session_id="s1", deps={"name": "Ada"})
            print((await run.collect()).text)
        print((await (await runner.start("well?", agent="minutes", session_id="s1")).collect()).text, end="")


asyncio.run(main())
