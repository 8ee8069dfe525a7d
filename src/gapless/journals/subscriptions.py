"""Where users are told of their runs: what their browsers have subscribed with, kept by user.

A subscription has an id that its address decides, so a browser has one, whoever uses it: it is the user's who was the
last to use that browser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

__all__ = ["Subscription", "Subscriptions"]


class Subscription(msgspec.Struct, frozen=True):
    """Is one address at which the user `user_id` is told. `id` is ASCII, `data` is JSON in one line, as an event is;
    `kept_at` (ms) is when it was kept last."""

    id: str
    user_id: str
    data: bytes
    kept_at: int


class Subscriptions(ABC):
    """Keeps a store's subscriptions. Every method raises `StoreUnavailable`, and may be repeated."""

    @abstractmethod
    async def keep(self, subscription: Subscription, most: int) -> None:
        """Keep `subscription` in the place of the one that has its id, also where that is another user's. Of those that
        its user has then only `most` stay: this one, and those that were kept latest."""

    @abstractmethod
    async def drop(self, user_id: str, subscription_id: str) -> bool:
        """Drop the subscription `subscription_id` of the user `user_id`; False where they have none of that id."""

    @abstractmethod
    async def of_user(self, user_id: str) -> list[Subscription]:
        """Return the subscriptions of the user `user_id`, latest kept first."""
