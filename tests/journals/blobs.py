"""What every store must do with blobs: the large parts of events, kept beside a run's journal. Part of the suite."""

from __future__ import annotations

import os

import pytest

from gapless.errors import RunNotFound
from gapless.journals.contract import BLOB_PIECE_BYTES
from tests.journals.workers import Cluster, Worker

__all__ = ["Blobs"]


class Blobs:
    """Keeping a run's blobs, reading them anywhere, and dropping them with the run's events."""

    async def test_a_piece_of_a_blob_is_read_anywhere(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        pieces = [os.urandom(BLOB_PIECE_BYTES), b"", b"\x00\n\xff"]
        for number, data in enumerate(pieces):
            await a.store.keep_blob("r", "x", number, data)
        await a.end("r", 1)
        for worker in (a, b):
            assert [await worker.store.blob("r", "x", number) for number in range(4)] == [*pieces, None]
            assert await worker.store.blob("r", "y", 0) is None
            assert await worker.store.blob("unknown", "x", 0) is None

    async def test_a_piece_that_is_there_stays(self, a: Worker) -> None:
        await a.create("r")
        await a.store.keep_blob("r", "x", 0, b"first")
        await a.store.keep_blob("r", "x", 0, b"second")
        assert await a.store.blob("r", "x", 0) == b"first"

    async def test_only_the_owner_keeps_and_only_while_the_run_is_active(self, a: Worker, b: Worker) -> None:
        await a.create("r")
        with pytest.raises(RunNotFound):
            await b.store.keep_blob("r", "x", 0, b"no")
        await a.end("r", 1)
        with pytest.raises(RunNotFound):
            await a.store.keep_blob("r", "x", 0, b"no")
        assert await a.store.blob("r", "x", 0) is None

    async def test_a_fenced_worker_keeps_nothing(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("r")
        await a.store.keep_blob("r", "x", 0, b"before")
        await cluster.lapse(b)
        with pytest.raises(RunNotFound):
            await a.store.keep_blob("r", "x", 1, b"no")
        await b.store.keep_blob("r", "x", 2, b"after")
        assert [await b.store.blob("r", "x", number) for number in range(3)] == [b"before", None, b"after"]

    async def test_blobs_go_with_their_runs_events(self, a: Worker, b: Worker) -> None:
        for run_id in ("old", "new"):
            await a.create(run_id, run_id)
            await a.store.keep_blob(run_id, "x", 0, b"data")
        await a.end("old", 1, ended_at=10)
        await a.end("new", 1, ended_at=20)
        assert await b.store.expire(15) == 1
        assert await b.store.blob("old", "x", 0) is None
        assert await b.store.blob("new", "x", 0) == b"data"
        assert await b.store.delete_session("new")
        assert await a.store.blob("new", "x", 0) is None

    async def test_blobs_count_as_their_runs_bytes(self, cluster: Cluster, a: Worker, b: Worker) -> None:
        await a.create("large", "s1")
        await a.store.keep_blob("large", "x", 0, bytes(50_000))
        await cluster.lapse(b)
        await b.store.keep_blob("large", "x", 1, bytes(50_000))
        await b.end("large", 1, ended_at=10)
        await b.create("small", "s2")
        await b.end("small", 1, ended_at=20)
        assert await b.store.expire(0, 110_000) == 0
        assert await b.store.expire(0, 90_000) == 1
        assert await b.store.blob("large", "x", 0) is None

    async def test_a_run_that_is_made_anew_has_no_blob_of_the_old_one(self, a: Worker) -> None:
        await a.create("r", "s")
        await a.store.keep_blob("r", "x", 0, b"old")
        await a.end("r", 1)
        assert await a.store.delete_session("s")
        await a.create("r", "s")
        assert await a.store.blob("r", "x", 0) is None
