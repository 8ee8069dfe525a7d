"""A tool fails in mid-answer: one typed error, with a code and with the text that there was."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner
from gapless.errors import RunFailed, ToolFailed
from gapless.testing import Fail, ToolCall


def check_stock(item: str) -> int:
    """How many there are."""
    raise ConnectionError(f"no database to look up {item}")


async def main() -> None:
    agent = demo_agent(
        *typed("Let me check the stock. "),
        ToolCall("check_stock", {"item": "lamp"}),
        Fail(ToolFailed("tool check_stock raised ConnectionError")),
        tools=[check_stock],
    )
    async with Runner(agent) as runner:
        run = await runner.start("Do you have lamps?")
        try:
            print((await run.collect()).text)
        except ToolFailed as error:
            print(f"The tool failed: {error}")
            print(f"Said until then: {error.text}")
        except RunFailed as error:  # every other way in which a run can fail
            print(f"{error.code}: {error}")
        print((await run.record()).status.value)


if __name__ == "__main__":
    asyncio.run(main())
