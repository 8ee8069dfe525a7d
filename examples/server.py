"""A server in ten lines: `uvicorn server:app`, then open http://127.0.0.1:8000."""

from collections.abc import AsyncIterator

from gapless import Runner, create_app


async def agent(message: str) -> AsyncIterator[str]:
    for word in f"You said: {message}".split():
        yield word + " "


app = create_app(Runner(agent, store="sqlite:///gapless.db"))
