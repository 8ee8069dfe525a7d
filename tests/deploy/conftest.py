"""Real server processes on a store that they share: an SQLite file, and a real Valkey."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support.processes import Server, Talks
from tests.support.valkey import Valkey

_numbers = itertools.count()

Start = Callable[..., list[Server]]


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    with Valkey() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a store for several processes; each test runs on each."""
    if request.param == "redis":
        url: str = request.getfixturevalue("valkey")
        return url
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'gapless.db'}"


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Talks:
    return Talks(tmp_path_factory.mktemp("talks"))


@pytest.fixture(scope="module")
def start(store: str, talks: Talks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start replicas and wait until they are ready: `start("--workers", "3")`, `start(count=2)`."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, count: int = 1, environment: dict[str, str] | None = None) -> list[Server]:
            servers = []
            for _ in range(count):
                server = Server(
                    tmp_path_factory.mktemp("server"),
                    store=store,
                    arguments=arguments,
                    agent=talks.agent,
                    environment={**talks.environment, **(environment or {})},
                )
                stack.callback(server.close)
                server.launch()
                servers.append(server)
            for server in servers:
                server.ready()
            return servers

        yield start


@pytest.fixture
def name() -> str:
    """A name that no other test has, for a talk or an id."""
    return f"n{next(_numbers)}"
