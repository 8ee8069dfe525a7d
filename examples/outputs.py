"""One stream to several outputs at once. One that fails is reported and does not stop the others."""

import asyncio
import tempfile
from pathlib import Path

from demo_agent import demo_agent, typed

from gapless import Runner
from gapless.sinks import console

received: list[str] = []


async def send(text: str) -> None:
    """For example to a WebSocket (which can be given as it is)."""
    received.append(text)


def broken(text: str) -> None:
    raise OSError("disk full")


async def main() -> None:
    agent = demo_agent(*typed("AI safety means that it does what people mean."))
    async with Runner(agent) as runner:
        file = Path(tempfile.mkdtemp()) / "response.txt"
        run = await runner.start("Explain AI safety")
        failures = await run.stream_to(console, file, send, broken)
    print(f"\nfile: {file.read_text()}\nsent: {''.join(received)}")
    for failure in failures:
        print(f"failed: {failure.error}")


if __name__ == "__main__":
    asyncio.run(main())
