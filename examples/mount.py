"""Gapless inside your own FastAPI app: all of it under /agents, and a route of your own beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from demo_agent import demo_agent, typed
from fastapi import FastAPI

from gapless import Runner, create_app

runner = Runner(demo_agent(*typed("FastAPI serves it, Gapless streams it.")))
agents = create_app(runner)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with agents.router.lifespan_context(agents):  # a mounted app is not told when its server starts and stops
        yield


main = FastAPI(lifespan=lifespan)
main.mount("/agents", agents)


@main.post("/summary")
async def summary(query: str) -> dict[str, str]:
    """The same agent, asked by your own code."""
    response = await (await runner.start(query)).collect()
    return {"text": response.text}


if __name__ == "__main__":
    uvicorn.run(main, port=8000)  # then: curl -N "http://127.0.0.1:8000/agents/chat/stream?query=Hello"
