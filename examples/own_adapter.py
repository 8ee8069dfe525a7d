"""An adapter for a framework that Gapless does not know, and a small such framework to show it on.

python examples/own_adapter.py
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from gapless import Runner
from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.agents.failing import tool_failure
from gapless.agents.writing import Said, result

# -- somebody's framework ---------------------------------------------------------------------------------------------


@dataclass
class Bot:
    """Says what its script says, and calls its tools."""

    script: list[Any]
    tools: dict[str, Callable[..., Awaitable[object]]]

    async def stream(self, question: str) -> AsyncIterator[tuple[str, Any]]:
        for number, step in enumerate(self.script):
            if isinstance(step, str):
                yield "token", step
                continue
            name, arguments = step
            yield "call", (f"call-{number}", name, arguments)
            yield "returned", (f"call-{number}", await self.tools[name](**arguments))
        yield "end", None


# -- its adapter ------------------------------------------------------------------------------------------------------


class BotAgent(Agent):
    """Adapts a `Bot`."""

    def __init__(self, bot: Bot) -> None:
        self.name = "bot"
        self._bot = bot

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        said = Said(ctx.new_id("message"), ctx.new_id)
        calling = ""
        try:
            async for kind, value in self._bot.stream(ctx.message):
                events = []
                if kind == "token":
                    events = said.text(value)
                elif kind == "call":
                    id, calling, arguments = value
                    events = [*said.call(id, id, calling, json.dumps(arguments)), *said.end()]
                elif kind == "returned":
                    id, returned = value
                    events = [result(ctx.new_id("result"), id, str(returned))]
                    said, calling = Said(ctx.new_id("message"), ctx.new_id), ""
                elif kind == "end":
                    events = said.end()
                for event in events:
                    yield event
        except Exception as error:
            if calling:
                raise tool_failure(error, ctx.run_id, [calling]) from error
            raise


async def weather(city: str) -> str:
    return f"sunny in {city}"


async def main() -> None:
    bot = Bot(["Let me look. ", ("weather", {"city": "Paris"}), "Go out!"], {"weather": weather})
    async with Runner(BotAgent(bot)) as runner:
        run = await runner.start("What shall I do?")
        async for event in run.events():
            print(type(event).__name__.removesuffix("Event"), getattr(event, "delta", ""))


if __name__ == "__main__":
    asyncio.run(main())
