"""An object that speaks AG-UI, as the bridges of other frameworks do, run in this process.

python examples/agui_object.py
"""

import asyncio
from collections.abc import AsyncIterator

from ag_ui import core as ag_ui

from gapless import Runner


class Greeter:
    """Stands for a bridge: it takes `RunAgentInput` and yields AG-UI's events."""

    name = "greeter"

    async def run(self, input_data: ag_ui.RunAgentInput) -> AsyncIterator[ag_ui.BaseEvent]:
        yield ag_ui.RunStartedEvent(thread_id=input_data.thread_id, run_id=input_data.run_id)
        yield ag_ui.TextMessageStartEvent(message_id="m1")
        for word in ("Hello, ", "this is message ", str(len(input_data.messages)), "."):
            yield ag_ui.TextMessageContentEvent(message_id="m1", delta=word)
        yield ag_ui.TextMessageEndEvent(message_id="m1")
        yield ag_ui.RunFinishedEvent(thread_id=input_data.thread_id, run_id=input_data.run_id)


agent = Greeter()


async def main() -> None:
    async with Runner(agent) as runner:
        run = await runner.start("Hi", session_id="s1")
        async for text in run.text():
            print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
