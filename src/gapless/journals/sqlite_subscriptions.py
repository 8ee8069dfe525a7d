"""Subscriptions in an SQLite file."""

from __future__ import annotations

import sqlite3

from gapless.journals.sqlite_file import SQLiteFile
from gapless.journals.subscriptions import Subscription, Subscriptions

__all__ = ["SQLiteSubscriptions"]

_KEEP = """INSERT INTO subscriptions(id, user, data, kept_at) VALUES(?, ?, ?, ?)
    ON CONFLICT(id) DO UPDATE SET user = excluded.user, data = excluded.data, kept_at = excluded.kept_at"""
_DROP_OTHERS = """DELETE FROM subscriptions WHERE id IN
    (SELECT id FROM subscriptions WHERE user = ? AND id != ? ORDER BY kept_at DESC, id LIMIT -1 OFFSET ?)"""


class SQLiteSubscriptions(Subscriptions):
    """The table of subscriptions."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file

    async def keep(self, subscription: Subscription, most: int) -> None:
        id, user_id = subscription.id, subscription.user_id

        def keep(db: sqlite3.Connection) -> None:
            db.execute(_KEEP, (id, user_id, subscription.data, subscription.kept_at))
            db.execute(_DROP_OTHERS, (user_id, id, most - 1))

        await self._file.transact(keep)

    async def drop(self, user_id: str, subscription_id: str) -> bool:
        sql = "DELETE FROM subscriptions WHERE id = ? AND user = ?"
        return bool(await self._file.transact(lambda db: db.execute(sql, (subscription_id, user_id)).rowcount))

    async def of_user(self, user_id: str) -> list[Subscription]:
        sql = "SELECT id, user, data, kept_at FROM subscriptions WHERE user = ? ORDER BY kept_at DESC, id"
        return [Subscription(*row) for row in await self._file.query(sql, user_id)]
