"""Where the tests of the PostgreSQL store keep what they keep."""

from __future__ import annotations

from collections.abc import Callable

from gapless.journals.contract import Store
from gapless.journals.postgres import PostgresStore
from tests.support.postgres import Postgres

TABLES = ["workers", "sessions", "runs", "events", "checkpoints", "blobs", "commands", "notices", "turns", "watches"]
TABLES += ["dropped", "subscriptions"]


class DatabasePlace:
    def __init__(self, server: Postgres) -> None:
        self.url = server.url
        if server.run("SELECT to_regclass('gapless.workers')") != [(None,)]:
            server.run("".join(f"DELETE FROM gapless.{table};" for table in TABLES))

    def store(self, clock: Callable[[], float]) -> Store:
        return PostgresStore(self.url, monotonic=clock)

    async def crash(self, store: Store) -> None:
        assert isinstance(store, PostgresStore)
        await store._disconnect()
