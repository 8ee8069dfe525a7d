"""The store in PostgreSQL behind a real PgBouncer in transaction mode: the suite of every store, and what is shared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from tests.journals.conformance import Cluster, Conformance
from tests.journals.postgres_place import DatabasePlace
from tests.support.pgbouncer import SERVERS_MAX, PgBouncer
from tests.support.postgres import Postgres

pytestmark = pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="no pgbouncer on PATH (apt-get install pgbouncer)"
)


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(postgres) as pooler:
        yield pooler


class PooledPlace(DatabasePlace):
    def __init__(self, server: Postgres, pooler: PgBouncer) -> None:
        super().__init__(server)
        self.url = pooler.url


class TestThroughPgBouncer(Conformance):
    @pytest.fixture
    def place(self, postgres: Postgres, pooler: PgBouncer) -> PooledPlace:
        return PooledPlace(postgres, pooler)


async def test_many_workers_share_few_connections(postgres: Postgres, pooler: PgBouncer) -> None:
    """Only the connection that listens is each worker's own."""
    cluster = Cluster(PooledPlace(postgres, pooler))
    workers = [await cluster.worker(f"w{number}") for number in range(2 * SERVERS_MAX)]
    for number, worker in enumerate(workers):
        await worker.create(f"r{number}", f"s{number}")
        await workers[number - 1].store.watch(f"r{number}")
    for number, worker in enumerate(workers):
        await worker.append(f"r{number}", 1, "1")
    for number in range(len(workers)):
        heard = workers[number - 1].heard
        await heard.until(partial(heard.is_past, f"r{number}", 0))
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gapless'"
    assert postgres.run(sql)[0][0] <= SERVERS_MAX + len(workers)
    await cluster.close()
