"""Subscriptions in memory."""

from __future__ import annotations

from gapless.journals.subscriptions import Subscription, Subscriptions

__all__ = ["MemorySubscriptions"]


class MemorySubscriptions(Subscriptions):
    """Keeps subscriptions for all workers of one `Memory`."""

    def __init__(self) -> None:
        self._kept: dict[str, Subscription] = {}

    async def keep(self, subscription: Subscription, most: int) -> None:
        self._kept.pop(subscription.id, None)
        for one in (await self.of_user(subscription.user_id))[most - 1 :]:
            del self._kept[one.id]
        self._kept[subscription.id] = subscription

    async def drop(self, user_id: str, subscription_id: str) -> bool:
        known = self._kept.get(subscription_id)
        if known is None or known.user_id != user_id:
            return False
        del self._kept[subscription_id]
        return True

    async def of_user(self, user_id: str) -> list[Subscription]:
        own = [one for one in self._kept.values() if one.user_id == user_id]
        return sorted(own, key=lambda one: one.kept_at, reverse=True)
