"""A store's file with more runs than a test would run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gapless.records import RunRecord, RunStatus


def fill(path: Path, runs: int, *, failed: int, rare: int, users: int = 1, since_ms: int = 0) -> None:
    """Put so many ended runs into an SQLite store's file, one a second: `failed` have failed, the oldest of them for
    want of paper; the `rare` oldest are of the agent `rare`."""

    def rows() -> Iterator[tuple[object, ...]]:
        for n in range(runs):
            fails = n % (runs // failed) == 0
            run = RunRecord(
                id=f"r{n}",
                session_id=f"s{n}",
                user_id=f"u{n % users}",
                agent="rare" if n < rare else "often",
                message=f"question {n}",
                created_at=since_ms + n * 1000,
                status=RunStatus.FAILED if fails else RunStatus.FINISHED,
                error={"code": "agent_failed", "message": "Out of paper" if n == 0 else "No"} if fails else None,
            )
            yield run.id, run.session_id, run.user_id, run.status.value, msgspec.json.encode(run)

    db = sqlite3.connect(path)
    with db:
        db.executemany("INSERT INTO runs(id, session, user, status, owner, record) VALUES(?, ?, ?, ?, '', ?)", rows())
    db.close()
