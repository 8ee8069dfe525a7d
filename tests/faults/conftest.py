"""Real servers, to be killed, stopped, cut off and filled up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gapless.client import GaplessClient
from tests.support.processes import Server
from tests.support.valkey import Valkey
from tests.support.wanderer import impatient

LEASE_S = 1.0
"""Of workers that are to be lost, and soon. Others may be too, on a slow machine."""
KEPT_LEASE_S = 6.0
"""Where no worker is to be lost: a slow machine holds none up for so long while it lets another look."""
AGENT = f"{Path(__file__).parents[1] / 'support' / 'paced.py'}:agent"

Serve = Callable[..., Server]
Connect = Callable[..., list[GaplessClient]]


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that several processes share; each test runs on each."""
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres').url}?schema={tmp_path.name}"
    if request.param == "redis":
        return f"redis://127.0.0.1:{request.getfixturevalue('valkey').port}/0"
    return f"sqlite:///{tmp_path / 'gapless.db'}"


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Launch a server of the agent `paced` on a store: `serve(store)`, `serve(store, lease_s=KEPT_LEASE_S)`."""
    with contextlib.ExitStack() as stack:

        def serve(store: str, *, lease_s: float = LEASE_S, **environment: str) -> Server:
            server = Server(
                tmp_path_factory.mktemp("server"),
                store=store,
                arguments=("--log-level", "warning", "--client-config", "on_worker_lost=fail,restart"),
                agent=AGENT,
                environment={"GAPLESS_TEST_LEASE_S": str(lease_s), **environment},
            )
            stack.callback(server.close)
            server.launch()
            return server

        yield serve


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Clients of servers, closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def connect(*servers: Server) -> list[GaplessClient]:
            clients = [impatient(server.url) for server in servers]
            for client in clients:
                stack.push_async_callback(client.aclose)
            return clients

        yield connect
