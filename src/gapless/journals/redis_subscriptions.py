"""Subscriptions in Redis, all in the slot of the index: whose each is, and those of each user."""

from __future__ import annotations

from gapless.journals.redis_keys import SUBSCRIPTIONS
from gapless.journals.redis_scripts import Script
from gapless.journals.redis_server import RedisServer
from gapless.journals.subscriptions import Subscription, Subscriptions

__all__ = ["RedisSubscriptions"]

_KEEP = Script("""
local id, user, kept_at, data, most = unpack(ARGV)
local own, before = KEYS[1] .. ':' .. user, redis.call('HGET', KEYS[1], id)
if before and before ~= user then
  redis.call('HDEL', KEYS[1] .. ':' .. before, id)
end
redis.call('HSET', KEYS[1], id, user)
redis.call('HSET', own, id, kept_at .. ' ' .. data)
local all, others = redis.call('HGETALL', own), {}
for n = 1, #all, 2 do
  if all[n] ~= id then
    others[#others + 1] = {all[n], tonumber(string.match(all[n + 1], '^%d+'))}
  end
end
table.sort(others, function(one, other) return one[2] > other[2] end)
for n = tonumber(most), #others do
  redis.call('HDEL', own, others[n][1])
  redis.call('HDEL', KEYS[1], others[n][1])
end
""")
_DROP = Script("""
local id, user = unpack(ARGV)
if redis.call('HGET', KEYS[1], id) ~= user then
  return 0
end
redis.call('HDEL', KEYS[1], id)
return redis.call('HDEL', KEYS[1] .. ':' .. user, id)
""")


class RedisSubscriptions(Subscriptions):
    """The hashes of subscriptions."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    async def keep(self, subscription: Subscription, most: int) -> None:
        id, user_id, data, kept_at = subscription.id, subscription.user_id, subscription.data, subscription.kept_at
        await self._server.call(_KEEP, SUBSCRIPTIONS, id, user_id, kept_at, data, most)

    async def drop(self, user_id: str, subscription_id: str) -> bool:
        return bool(await self._server.call(_DROP, SUBSCRIPTIONS, subscription_id, user_id))

    async def of_user(self, user_id: str) -> list[Subscription]:
        found = []
        for id, value in (await self._server.command("HGETALL", f"{SUBSCRIPTIONS}:{user_id}")).items():
            kept_at, _, data = value.partition(b" ")
            found.append(Subscription(id.decode(), user_id, data, int(kept_at)))
        return sorted(found, key=lambda one: (-one.kept_at, one.id))
