"""A client on an app in this process, and a few agents to talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from gapless import Runner, create_app


async def words(message: str) -> AsyncIterator[str]:
    for word in ("you ", "said ", message):
        yield word


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., Any]]:
    """`await client_of(runner, **create_app options)`: an HTTP client on the app, without a socket between."""
    async with AsyncExitStack() as stack:

        async def make(runner: Runner, headers: dict[str, str] | None = None, **options: Any) -> httpx2.AsyncClient:
            app = create_app(runner, **options)
            stack.push_async_callback(runner.close)
            transport = httpx2.ASGITransport(app)
            return await stack.enter_async_context(
                httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers)
            )

        yield make


@pytest.fixture
async def client(client_of: Callable[..., Any]) -> httpx2.AsyncClient:
    """A client on an app with one agent that repeats what it is told."""
    return await client_of(Runner(words))  # type: ignore[no-any-return]  # as made above
