"""Cancel in mid-answer: the model is really stopped, what was shown is kept, the session goes on."""

import asyncio

from demo_agent import demo_agent, typed

from gapless import Runner

ENOUGH_CHARS = 60


async def main() -> None:
    agent = demo_agent(*typed("Python is a programming language. " * 100))
    async with Runner(agent) as runner:
        async with runner.run_stream("Write a very long essay about Python", session_id="s1") as stream:
            shown = ""
            async for text in stream.stream_text(delta=True):
                print(text, end="", flush=True)
                shown += text
                if len(shown) > ENOUGH_CHARS:
                    break  # leaving the block cancels the run; `await run.cancel()` does so from anywhere
        print(f"\n{(await stream.run.record()).status.value}")
        kept = (await runner.messages("s1"))[-1]
        print(f"kept: {kept.content!r}, {kept.metadata}")


if __name__ == "__main__":
    asyncio.run(main())
