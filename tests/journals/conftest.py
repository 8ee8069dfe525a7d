"""A Valkey server and the workers of one test on it, for the tests of the Redis store's parts."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis as client

from tests.journals.conformance import WAIT_S, Cluster, Worker
from tests.journals.redis_place import ServerPlace
from tests.support.valkey import Valkey


@pytest.fixture(autouse=True)
def servers_may_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of a store fails that is not answered for seconds, and the machine of tests may stand still for some."""
    for name in ("postgres_append", "postgres_news", "postgres_server", "redis_news", "redis_server"):
        if (module := sys.modules.get(f"gapless.journals.{name}")) is not None:
            for bound in {"ANSWER_TIMEOUT_S", "CONNECT_TIMEOUT_S"} & vars(module).keys():
                monkeypatch.setattr(module, bound, int(WAIT_S))


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def cluster_server() -> Iterator[Valkey]:
    """One node that has all hash slots of a cluster, and refuses what would not work on several."""
    with Valkey(config={"cluster-enabled": "yes"}) as server:
        with client.Redis(port=server.port) as connection:
            connection.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + WAIT_S
            while b"cluster_state:ok" not in connection.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < deadline, "the node does not take its slots"
        yield server


@pytest.fixture
def place(server: Valkey) -> ServerPlace:
    return ServerPlace(server)


@pytest.fixture
async def cluster(place: ServerPlace) -> AsyncIterator[Cluster]:
    cluster = Cluster(place)
    yield cluster
    await cluster.close()


@pytest.fixture
async def a(cluster: Cluster) -> Worker:
    return await cluster.worker("a")


@pytest.fixture
async def b(cluster: Cluster) -> Worker:
    return await cluster.worker("b")


@pytest.fixture
def server_side(place: ServerPlace) -> Iterator[Any]:
    with client.Redis.from_url(place.url) as connection:
        yield connection
