"""Where the tests of the Redis store keep what they keep, and what they do to its server and its connections."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis as client
from redis.exceptions import ConnectionError as ConnectionLost

from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import Store
from gapless.journals.redis import RedisStore
from tests.journals.conformance import LEASE_S, Worker
from tests.support.valkey import Valkey


class ServerPlace:
    def __init__(self, server: Valkey) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        with client.Redis.from_url(self.url) as connection:
            connection.flushall()

    def store(self, clock: Callable[[], float]) -> Store:
        return RedisStore(self.url, monotonic=clock)

    async def crash(self, store: Store) -> None:
        assert isinstance(store, RedisStore)
        await store._disconnect()


def put_between(store: Store, through: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each call of a store's server go through this, which is given what makes the call, and the call."""
    assert isinstance(store, RedisStore)
    for each in {store._server._client, store._server._line}:
        monkeypatch.setattr(each, "execute_command", partial(through, each.execute_command))


class Losses:
    """Loses what goes between a store and its server: the answer to a script, or the call itself."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[scripts.Script] = []
        self.calls: list[scripts.Script] = []
        put_between(store, self._lossy, monkeypatch)

    async def _lossy(self, execute: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        for script in self.calls:
            if script.sha in arguments:
                self.calls.remove(script)
                raise ConnectionLost("cut before the call")
        answer = await execute(*arguments, **options)
        for script in self.answers:
            if script.sha in arguments or script.source in arguments:
                self.answers.remove(script)
                raise ConnectionLost("cut before the answer")
        return answer


async def warm(*workers: Worker) -> None:
    """Make the server know the scripts, so that the losses hit their calls and not their loading."""
    for worker in workers:
        await worker.create(f"warm-{worker.id}", f"warm-{worker.id}")
        await worker.append(f"warm-{worker.id}", 1, "1")
        await worker.end(f"warm-{worker.id}", 2)
        assert await worker.store.take_over(LEASE_S) == []


class Proxy:
    """Passes bytes on, until its connections are silenced, and stay open while nothing comes through, or are reset."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._open: set[asyncio.Event] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def silence(self) -> None:
        for silent in self._open:
            silent.set()

    def reset(self) -> None:
        """End them as a machine does that knows nothing of them."""
        writers, self._writers = self._writers, set()
        for writer in writers:
            if not writer.transport.is_closing():
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        silent = asyncio.Event()
        self._open.add(silent)
        self._writers.add(writer)
        for source, target in ((reader, back), (there, writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, target, silent)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                if not silent.is_set():
                    target.write(data)
        finally:
            target.close()


class Replica:
    """What a replica has got of a session so far, and takes over with."""

    def __init__(self, server_side: Any, session_id: str = "s") -> None:
        self._server = server_side
        self._pattern = f"gapless:{{{session_id}}}:*"
        self._has = {key: server_side.dump(key) for key in server_side.keys(self._pattern)}

    def promote(self) -> None:
        for key in self._server.keys(self._pattern):
            self._server.delete(key)
        for key, value in self._has.items():
            self._server.restore(key, 0, value)


def never(*_: object) -> None:
    raise AssertionError("nothing is refused, commanded or fenced here")


class Traffic:
    """What each round trip of a store brings: how many answers, and how many bytes in them."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(store, RedisStore)
        self.trips: list[tuple[int, int]] = []
        for name in ("command", "call", "all"):
            monkeypatch.setattr(store._server, name, partial(self._counted, getattr(store._server, name)))

    async def _counted(self, run: Callable[..., Any], *arguments: Any) -> Any:
        answer = await run(*arguments)
        if answer:
            self.trips.append((len(answer) if isinstance(answer, list) else 1, _bytes_in(answer)))
        return answer

    @property
    def answers(self) -> int:
        return sum(count for count, _ in self.trips)


def _bytes_in(answer: Any) -> int:
    if isinstance(answer, list):
        return sum(map(_bytes_in, answer))
    return len(answer) if isinstance(answer, bytes) else 0
