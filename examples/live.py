"""A live run: an agent that is spoken to while it speaks, and stops when it is."""

import asyncio
from collections.abc import AsyncIterator

from gapless import (
    AgentItem,
    CustomEvent,
    LiveRequestQueue,
    RunContext,
    Runner,
    TextMessageContentEvent,
    TextMessageStartEvent,
    text_of,
)


async def guide(ctx: RunContext) -> AsyncIterator[AgentItem]:
    async for request in ctx.live:  # ends when the person has hung up
        station = 0
        while not ctx.live.pending:  # somebody speaks: listen
            station += 1
            yield f"{text_of(request.content)}, station {station}. "
            await asyncio.sleep(0.01)
        yield CustomEvent(name="gapless.interrupted", value={})
    yield "Goodbye."


async def main() -> None:
    queue, stations = LiveRequestQueue(), 0
    queue.send_content("The old town")
    async with Runner(guide) as runner:
        async for event in runner.run_live(queue, session_id="s1"):
            match event:
                case TextMessageStartEvent(role=role):
                    print(f"\n{role}: ", end="")
                case TextMessageContentEvent(delta=text):
                    print(text, end="", flush=True)
                    if "station" in text:
                        stations += 1
                        if stations == 3:
                            queue.send_content("The harbour")  # while the agent still speaks
                        elif stations == 10:
                            queue.close()
        print(f"\n{len(await runner.messages('s1'))} messages are kept")


if __name__ == "__main__":
    asyncio.run(main())
