"""Gapless under a path of your own app, behind a proxy that knows its users: `uvicorn production:app --port 8001`.

Two of these on two ports, with one store, are two replicas.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from gapless import Limits, RunConfig, Runner, create_app


async def agent(message: str) -> AsyncIterator[str]:
    for word in f"You said: {message}".split():
        yield word + " "


def user_of(request: HTTPConnection) -> str | None:
    """The proxy sets this header, and drops what clients send under its name. Nobody else may reach this port."""
    return request.headers.get("x-forwarded-user")


runner = Runner(
    agent,
    store=os.environ.get("STORE", "sqlite:///gapless.db"),
    config=RunConfig(timeout=300, on_busy="queue"),  # for runs that do not say otherwise
    limits=Limits(runs_active_max=500, runs_active_per_user_max=5),
    retention_s=30 * 24 * 3600,  # events of ended runs; None keeps them for good
)
agents = create_app(runner, authenticate=user_of, cors_origins=["https://app.example.com"], drain_s=30)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with agents.router.lifespan_context(agents):  # an app that is mounted is not told when its server ends
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/agents", agents)
