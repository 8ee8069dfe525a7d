"""Subscriptions in PostgreSQL."""

from __future__ import annotations

from gapless.journals.postgres_server import Connection, PostgresServer
from gapless.journals.subscriptions import Subscription, Subscriptions

__all__ = ["PostgresSubscriptions"]

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('gapless.subscriptions'), hashtext(encode(%s::bytea, 'hex')))"
"""Of a user's: two that come at once would not see each other, and more would stay than may."""
_KEEP = """INSERT INTO gapless.subscriptions(id, "user", data, kept_at) VALUES(%s, %s, %s, %s::bigint)
    ON CONFLICT (id) DO UPDATE SET "user" = excluded."user", data = excluded.data, kept_at = excluded.kept_at"""
_DROP_OTHERS = """DELETE FROM gapless.subscriptions WHERE id IN
    (SELECT id FROM gapless.subscriptions WHERE "user" = %s AND id != %s ORDER BY kept_at DESC, id OFFSET %s::bigint)"""


class PostgresSubscriptions(Subscriptions):
    """The table of subscriptions."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    async def keep(self, subscription: Subscription, most: int) -> None:
        id, user = subscription.id, subscription.user_id.encode()

        async def keep(connection: Connection) -> None:
            await self._server.run(connection, _ONE_AT_A_TIME, user)
            await self._server.run(connection, _KEEP, id, user, subscription.data, subscription.kept_at)
            await self._server.run(connection, _DROP_OTHERS, user, id, most - 1)

        await self._server.transact(keep)

    async def drop(self, user_id: str, subscription_id: str) -> bool:
        sql = 'DELETE FROM gapless.subscriptions WHERE id = %s AND "user" = %s RETURNING id'
        return bool(await self._server.execute(sql, subscription_id, user_id.encode()))

    async def of_user(self, user_id: str) -> list[Subscription]:
        sql = 'SELECT id, data, kept_at FROM gapless.subscriptions WHERE "user" = %s ORDER BY kept_at DESC, id'
        rows = await self._server.rows(sql, user_id.encode())
        return [Subscription(id, user_id, data, kept_at) for id, data, kept_at in rows]
