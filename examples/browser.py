"""A page of your own in front of Gapless: `python examples/browser.py`, then open http://127.0.0.1:8000.

The page (browser/index.html) asks in two ways: with the browser's own EventSource, and with Gapless' stream.js.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from demo_agent import demo_agent, typed
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from gapless import Runner, create_app

runner = Runner(demo_agent(*typed("Server-Sent Events are lines of text over <b>one</b> HTTP answer.", 0.1)))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with runner:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/agents", create_app(runner))
app.mount("/", StaticFiles(directory=Path(__file__).with_name("browser"), html=True))

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
