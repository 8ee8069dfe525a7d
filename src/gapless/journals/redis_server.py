"""The Redis or Valkey server of a store: the connections to it, one call of it, and what can go wrong with either."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError, ResponseError

from gapless.errors import GaplessError, StoreCorrupt, StoreUnavailable, UsageError
from gapless.journals.contract import shown_url
from gapless.journals.redis_scripts import Script

__all__ = ["ANSWER_TIMEOUT_S", "CONNECT_TIMEOUT_S", "FAILURES", "RedisServer"]

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 2.0, 5.0
CONNECTIONS_MAX = 64
VERSION_MIN = 7

FAILURES = (RedisError, RedisClusterException, OSError, AttributeError, RuntimeError)
"""What redis-py raises where the server did not answer: AttributeError from a connection that its cluster client has
closed under another task's command, as it does with all of them when it has lost the cluster's layout; RuntimeError,
which is uvloop's, from one that was reset while nobody used it."""
_NOBODY = (redis.ConnectionError, redis.TimeoutError, OSError)
"""Raised when nothing listens there. Exact types only: subclasses carry a server's answer."""
_SETTINGS = ("persistence", "memory")
"""Sections of INFO, which is allowed where CONFIG GET is not."""
_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}


class RedisServer:
    """One server, or one cluster of them, as one worker calls it."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        shown = shown_url(url).partition("://")[2]
        address = shown if shown.startswith("/") else shown.rpartition("@")[2]
        self._url = f"{_SCHEMES.get(scheme, scheme)}://{rest}"
        self.name = f"{scheme}://{address.partition('?')[0]}"
        """The URL without the password that it may carry, for messages."""
        self.is_cluster = False
        self._client: Any = None
        self._subscriber: Any = None
        """The client that listens; another one in a cluster, whose node it is connected to."""
        self._line: Any = None
        """The client with a connection of its own; in a cluster the same as for everything."""

    @property
    def is_connected(self) -> bool:
        return self._client is not None

    async def connect(self) -> None:
        """Connect, and find out what is there. Raises `UsageError` for a URL that cannot be read."""
        options: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": ANSWER_TIMEOUT_S,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 1),  # a connection that the server has closed meanwhile
            "retry_on_error": [RuntimeError],  # uvloop's, of one that was reset
        }
        try:
            pool = redis.BlockingConnectionPool.from_url(
                self._url, max_connections=CONNECTIONS_MAX, timeout=ANSWER_TIMEOUT_S, **options
            )
            self._client = self._subscriber = redis.Redis.from_pool(pool)
        except ValueError as error:
            # What is special in a password may have cut it in two, and the error then names a part of it.
            reason = "its URL cannot be read; write %XX for special characters" if "@" in self._url else error
            raise UsageError(f"store {self.name}: {reason}") from None
        try:
            await self._examine(options)
        except BaseException as error:
            await self.disconnect()
            if isinstance(error, StoreUnavailable) and type(error.__cause__) in _NOBODY:
                raise StoreUnavailable(f"{error.message.rstrip('.')}; is a Redis or Valkey running there?") from error
            if isinstance(error, TypeError):
                raise UsageError(f"store {self.name}: a parameter in its URL is none of redis-py's") from None
            raise

    async def _examine(self, options: dict[str, Any]) -> None:
        """Find out which version there is, and whether it is a cluster. Raises `StoreUnavailable`."""
        server = await self.command("INFO", "server")
        if int(server["redis_version"].split(".")[0]) < VERSION_MIN:
            version = server["redis_version"]
            raise StoreUnavailable(f"store {self.name}: Redis {version}; {VERSION_MIN} or Valkey is needed")
        self.is_cluster = bool((await self.command("INFO", "cluster")).get("cluster_enabled"))
        if self.is_cluster:
            self._client = self._line = redis.RedisCluster.from_url(self._url, **options)
            await self.command("PING")  # which nodes there are
        else:
            self._line = self._client.client()

    async def settings(self) -> list[dict[str, Any]]:
        """What each server says of its persistence and memory; nothing of one that does not let itself be asked."""
        if self._client is None:
            raise self._closed()
        found = []
        nodes = [{"target_nodes": node} for node in self._client.get_primaries()] if self.is_cluster else [{}]
        for node in nodes:
            with contextlib.suppress(*FAILURES):  # INFO may be refused
                sections = [await self._client.execute_command("INFO", name, **node) for name in _SETTINGS]
                found.append({name: value for section in sections for name, value in section.items()})
        return found

    async def disconnect(self) -> None:
        """Close all connections. Idempotent."""
        clients = {id(client): client for client in (self._line, self._client, self._subscriber) if client is not None}
        self._client = self._subscriber = self._line = None
        for client in clients.values():
            await client.aclose()

    async def command(self, *arguments: Any) -> Any:
        """Run one command. Raises `StoreUnavailable`, `StoreCorrupt` for a key that holds something else."""
        if self._client is None:
            raise self._closed()
        try:
            return await self._client.execute_command(*arguments)
        except FAILURES as error:
            raise await self._translate(error) from error

    async def call(self, script: Script, key: str, *arguments: Any) -> Any:
        """Run one script, in the slot of `key`. Raises as `command` does."""
        return await self._run(self._client, script, key, *arguments)

    async def call_in_turn(self, script: Script, key: str, *arguments: Any) -> Any:
        """Run one script as `call` does, behind what was called so before: what is called all the time has a connection
        of its own. One out of the pool is waited for, looked at and given back with each call, which is half of its
        CPU."""
        return await self._run(self._line, script, key, *arguments)

    async def _run(self, client: Any, script: Script, key: str, *arguments: Any) -> Any:
        if client is None:
            raise self._closed()
        try:
            try:
                return await client.execute_command("EVALSHA", script.sha, 1, key, *arguments)
            except NoScriptError:
                return await client.execute_command("EVAL", script.source, 1, key, *arguments)
        except FAILURES as error:
            raise await self._translate(error) from error

    async def all(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Run many commands in one round trip. The answer is None for one whose key holds something else."""
        if self._client is None:
            raise self._closed()
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for arguments in commands:
                    pipeline.execute_command(*arguments)
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not _is_damage(answer):
                    raise answer
            return [None if isinstance(answer, Exception) else answer for answer in answers]
        except FAILURES as error:
            raise await self._translate(error) from error

    async def each(self, hashes: Iterable[str], fields: Sequence[str]) -> list[list[Any]]:
        """Read these fields of many hashes, in one round trip. One that is damaged has none of them."""
        answers = await self.all(("HMGET", key, *fields) for key in hashes)
        return [[None] * len(fields) if answer is None else answer for answer in answers]

    def pubsub(self) -> Any:
        """Make a connection to listen on: in a cluster to any of its nodes, they pass on what is published on another.
        Raises `StoreUnavailable` when this is not connected."""
        if self._client is None:
            raise self._closed()
        if not self.is_cluster:
            return self._subscriber.pubsub()
        return self._client.pubsub(node=self._client.get_random_node())

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"store {self.name} is closed")

    async def _translate(self, error: Exception) -> GaplessError:
        if _is_damage(error):
            return StoreCorrupt(f"store {self.name}: a key of Gapless holds what is not Gapless's; delete it: {error}")
        client, line = self._client, self._line  # which are none once this is closed, as it may be by now
        if isinstance(error, ReadOnlyError) and client is not None and client is self._subscriber:
            await client.connection_pool.disconnect(inuse_connections=False)  # the name may lead elsewhere now
            if line is not None and line.connection is not None:
                await line.connection.disconnect()
        return StoreUnavailable(f"store {self.name}: {error or type(error).__name__}")


def _is_damage(error: Exception) -> bool:
    """Tell an error about what is kept in a key, for which there is no reason to ask again."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
