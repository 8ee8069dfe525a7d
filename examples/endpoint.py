"""An agent by URL: a durable journal in front of a model server that has none. Give it yours, or see it with one here.

python examples/endpoint.py                                           # a server with a script
python examples/endpoint.py "http://127.0.0.1:11434/v1?model=qwen3"
"""

import asyncio
import contextlib
import sys
from collections.abc import Iterator

from gapless import GaplessError, Runner, create_app
from gapless.testing import ScriptedAgent, serving, words


@contextlib.contextmanager
def scripted_service() -> Iterator[str]:
    """A server that speaks OpenAI's chat completions, as long as the block lasts."""
    service = create_app(Runner(ScriptedAgent(*words("I am a service that keeps nothing.")), app_name="service"))
    with serving(service) as address:
        yield f"{address}/v1?model=service"


async def ask(url: str) -> None:
    async with Runner(url) as runner:
        run = await runner.start("What are you?")
        async for text in run.text():
            print(text, end="", flush=True)
        print(f"\n{(await run.record()).last_seq} events in the journal")


if __name__ == "__main__":
    try:
        with contextlib.nullcontext(sys.argv[1]) if len(sys.argv) > 1 else scripted_service() as url:
            asyncio.run(ask(url))
    except GaplessError as error:
        sys.exit(f"{error.code}: {error}")
