"""What retention drops of a PostgreSQL store makes place for what comes."""

from __future__ import annotations

from gapless.journals.contract import Append
from tests.journals.conformance import Cluster, an_end, an_event
from tests.journals.postgres_place import DatabasePlace
from tests.support.postgres import Postgres

ROUNDS, RUNS, ROWS, EVENTS = 8, 20, 10, 20
FOR_EVER = 2**62


async def test_the_tables_do_not_grow_with_what_was_dropped(postgres: Postgres) -> None:
    """VACUUM is the server's own, which comes by itself in use."""
    cluster = Cluster(DatabasePlace(postgres))
    worker = await cluster.worker("a")
    postgres.run("VACUUM FULL gapless.events")
    sizes = []
    for number in range(ROUNDS):
        runs = [f"{number}-{one}" for one in range(RUNS)]
        for run_id in runs:
            await worker.create(run_id, run_id)
        for row in range(ROWS):
            events = [an_event(f"event {n} of a row") for n in range(EVENTS)]
            assert not await worker.store.append([Append(run_id, 1 + row * EVENTS, events) for run_id in runs])
        end = 1 + ROWS * EVENTS
        assert not await worker.store.append([Append(one, end, [an_event("end")], an_end(one)) for one in runs])
        assert await worker.store.expire(FOR_EVER) == RUNS
        assert postgres.run("SELECT count(*) FROM gapless.events") == [(0,)]
        (size,) = postgres.run("SELECT pg_total_relation_size('gapless.events')")[0]
        sizes.append(size)
        postgres.run("VACUUM (TRUNCATE off) gapless.events")
    assert max(sizes) < 1.5 * sizes[0], sizes
    await cluster.close()
