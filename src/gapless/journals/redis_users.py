"""Users whose sessions are all watched through Redis: each has a channel, to which what changes a session publishes.

A session is in one slot and its user's watchers would be in another, which a script for the session cannot read: so
what changes it publishes whether or not anybody listens, and the server knows who does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from gapless.errors import StoreUnavailable
from gapless.journals.redis_server import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, FAILURES

__all__ = ["RedisUsers"]

_CHANNEL = b"gapless:user:"

log = logging.getLogger("gapless.redis")


class RedisUsers:
    """The users whose sessions this worker watches, on the connection on which it listens anyway."""

    def __init__(self, name: str, tell: Callable[[str, str | None], None]) -> None:
        """`name` is the store's, for messages; `tell` hands on which session of which user may have changed."""
        self._name = name
        self._tell = tell
        self._watched: dict[str, asyncio.Future[None]] = {}
        """Users, and whether the server has said that this worker hears of them."""
        self._connection: Any = None

    @property
    def channels(self) -> list[bytes]:
        """Returns what is to be subscribed to on a new connection."""
        return [_CHANNEL + user_id.encode() for user_id in self._watched]

    @contextlib.contextmanager
    def listening(self, connection: Any) -> Iterator[None]:
        """Take the connection that is listened on, while this is entered."""
        self._connection = connection
        try:
            yield
        finally:
            self._connection = None

    async def watch(self, user_id: str) -> None:
        """Watch a user's sessions, as `Store.watch_user`."""
        if user_id not in self._watched:
            self._watched[user_id] = asyncio.get_running_loop().create_future()
            await self._ask("subscribe", user_id)
        try:
            await asyncio.wait_for(asyncio.shield(self._watched[user_id]), CONNECT_TIMEOUT_S + ANSWER_TIMEOUT_S)
        except TimeoutError as error:
            raise StoreUnavailable(f"store {self._name}: no answer to SUBSCRIBE") from error

    async def unwatch(self, user_id: str) -> None:
        """Undo `watch`."""
        if self._watched.pop(user_id, None) is not None:
            await self._ask("unsubscribe", user_id)

    async def _ask(self, what: str, user_id: str) -> None:
        if self._connection is not None:
            try:
                await getattr(self._connection, what)(_CHANNEL + user_id.encode())
            except FAILURES as error:  # the next connection begins with what is watched then
                log.warning("store %s: %s: %s", self._name, what, error)

    def takes(self, message: dict[str, Any]) -> bool:
        """Hear what has come over the connection, if it is of a user; whether it was."""
        channel = message["channel"]
        if not isinstance(channel, bytes) or not channel.startswith(_CHANNEL):
            return False
        user_id = channel.removeprefix(_CHANNEL).decode()
        heard = self._watched.get(user_id)
        if heard is None:
            return True
        if message["type"] == "message":
            self._tell(user_id, message["data"].decode())
        elif message["type"] == "subscribe" and not heard.done():
            heard.set_result(None)
        elif message["type"] == "subscribe":  # on another connection: what came between is missed
            self._tell(user_id, None)
        return True
