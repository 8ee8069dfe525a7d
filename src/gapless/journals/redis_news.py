"""What other workers tell this one through Redis: events of the runs that it watches, commands for those it owns.

A run's record names the workers that watch it, and the append publishes to each of them all of its news in one message,
on the one channel that a worker listens to. The stream is the truth: after a lost connection a worker asks where its
watched runs are, and holes are read from the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from gapless.errors import GaplessError, StoreCorrupt, StoreUnavailable
from gapless.journals import redis_scripts as scripts
from gapless.journals.contract import Listener
from gapless.journals.redis_keys import run_key
from gapless.journals.redis_nobodys_scripts import COLLECT
from gapless.journals.redis_owned import RECHECK_RUNS_MAX, OwnedRuns
from gapless.journals.redis_records import RedisRecords
from gapless.journals.redis_server import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, FAILURES, RedisServer
from gapless.journals.redis_sessions import RedisSessions
from gapless.journals.redis_users import RedisUsers
from gapless.outage import Outage
from gapless.tasks import end_tasks

__all__ = ["RedisNews"]

LISTEN_IDLE_S = 2.0
"""Silence on the listening connection after which it is probed; as much again, and it is replaced."""
RECONNECT_PAUSE_S = 0.2
WANTED_CHANNEL = "gapless:wanted"
"""On which all workers are told that a run is nobody's and wants somebody."""
UNCLAIMED_MAX = 10_000
"""Runs that commands have come for and that are not this worker's as yet."""

log = logging.getLogger("gapless.redis")
_unpack_news = msgspec.msgpack.Decoder(list[tuple[str, int, str, bool]]).decode


class RedisNews:
    """The one connection on which a worker listens, and what it brings."""

    def __init__(self, server: RedisServer, records: RedisRecords, owned: OwnedRuns) -> None:
        self._server = server
        self._records = records
        self._owned = owned
        self.sessions = RedisSessions(server, owned, self._on_session)
        self.users = RedisUsers(server.name, self._on_user_session)
        self._listener: Listener | None = None
        self._listening: asyncio.Task[None] | None = None
        self._watched: set[str] = set()
        self._newly_watched: dict[str, float] = {}
        """Runs that are watched since not long ago, and since when."""
        self._setting = asyncio.Lock()
        """Watching and no longer watching reach the server in the order of the calls."""
        self._inbox: dict[str, None] = {}
        """Owned runs that commands have come for."""
        self._unclaimed: dict[str, None] = {}
        """Runs that commands have come for before this worker knew that it owns them."""
        self._taking_commands: asyncio.Task[None] | None = None
        self._deaf = Outage(log, f"store {server.name}: listening anew")
        self._held = Outage(log, f"store {server.name}: commands for runs wait")

    # -- listening --------------------------------------------------------------------------------------------------

    async def start(self, listener: Listener) -> None:
        """Listen under the worker's id, which may be a new one, and watch again what was watched. Call `stop` first."""
        self._listener = listener
        self._newly_watched.clear()
        subscribed = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen(subscribed), name="gapless-redis-listener")
        try:
            await asyncio.wait_for(subscribed, CONNECT_TIMEOUT_S + ANSWER_TIMEOUT_S)
        except TimeoutError as error:
            raise StoreUnavailable(f"store {self._server.name}: no answer to SUBSCRIBE") from error
        for run_id in tuple(self._watched):  # nothing was heard of them under the new id yet
            await self._watch_again(run_id)
        await self.sessions.watch_all_again()

    async def stop(self) -> None:
        """Listen no more, and take no more commands. Idempotent."""
        tasks = [task for task in (self._listening, self._taking_commands) if task is not None]
        self._listening = self._taking_commands = None
        await end_tasks(tasks, again_s=0.1)  # redis-py loses a cancellation that meets its own timeout

    def forget_listener(self) -> None:
        """Tell nobody any more."""
        self._listener = None

    async def _listen(self, subscribed: asyncio.Future[None]) -> None:
        """Listen to what is published to this worker; after every loss of the connection, ask for what was missed."""
        while True:
            try:
                async with contextlib.aclosing(self._server.pubsub()) as listening:
                    with self.users.listening(listening):
                        await self._listen_on(listening, subscribed)
            except Exception as error:  # whatever it is, followers here hear nothing while nobody listens
                self._deaf.failed(error, known=isinstance(error, (*FAILURES, StoreUnavailable)))
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen_on(self, listening: Any, subscribed: asyncio.Future[None]) -> None:
        """Listen on one connection, until it fails."""
        own = f"gapless:{self._owned.worker_id}"
        await listening.subscribe(WANTED_CHANNEL, own, *self.users.channels)
        probed = False
        while True:
            message = await listening.get_message(timeout=LISTEN_IDLE_S)
            if message is None:
                if probed:
                    raise TimeoutError("no answer to PING")
                await listening.ping()
            elif message["type"] == "message" and message["channel"] == WANTED_CHANNEL.encode():
                self._on_wanted(message["data"])
            elif self.users.takes(message):
                pass
            elif message["type"] == "message":
                self._on_message(message["data"])
            elif message["type"] == "subscribe" and message["channel"] == own.encode():
                self._deaf.over()
                if subscribed.done():
                    await self._ask_what_was_missed()
                else:
                    subscribed.set_result(None)
            probed = message is None

    def _on_message(self, data: bytes) -> None:
        if data[:1] == b"c":
            self.collect_commands([data[1:].decode()])
            return
        if data[:1] == b"s":
            self.sessions.on_message(data[1:].decode())
            return
        for run_id, first_seq, text, closed in _unpack_news(data[1:]):
            if run_id in self._watched and self._listener is not None:
                self._listener.on_events(run_id, first_seq, text.encode().split(b"\n"), closed)
                if closed:
                    self._watched.discard(run_id)

    def _on_session(self, session_id: str) -> None:
        if self._listener is not None:
            self._listener.on_session(session_id)

    def _on_user_session(self, user_id: str, session_id: str | None) -> None:
        if self._listener is not None:
            self._listener.on_user_session(user_id, session_id)

    def _on_wanted(self, teller: bytes) -> None:
        if teller != self._owned.worker_id.encode() and self._listener is not None:
            self._listener.on_wanted()

    async def _ask_what_was_missed(self) -> None:
        self._on_wanted(b"")
        for run_id in tuple(self._watched):
            await self._tell_position(run_id)
        await self.sessions.watch_all_again()
        self.collect_commands(self._owned.runs)

    async def _tell_position(self, run_id: str) -> None:
        """Tell the listener where a watched run is now, whatever was missed of it."""
        try:
            run = await self._records.run(run_id)
        except StoreCorrupt as error:
            log.error("run %s: %s", run_id, error)
            run = None
        if self._listener is not None:
            if run is None:
                self._listener.on_events(run_id, 0, [], closed=True)
            else:
                self._listener.on_events(run_id, run.last_seq + 1, [], run.status.ended)

    # -- watching ---------------------------------------------------------------------------------------------------

    async def watch(self, run_id: str) -> None:
        """Tell the listener of what others append to this run, as `Store.watch`."""
        self._watched.add(run_id)
        async with self._setting:
            if await self._set_watching(run_id, on=True):
                self._newly_watched[run_id] = time.monotonic()
            else:
                self._watched.discard(run_id)

    async def unwatch(self, run_id: str) -> None:
        """Undo `watch`."""
        if run_id not in self._watched:
            return
        self._watched.discard(run_id)
        self._newly_watched.pop(run_id, None)
        async with self._setting:
            if run_id in self._watched:
                return  # watched again meanwhile
            try:
                await self._set_watching(run_id, on=False)
            except GaplessError as error:  # what is heard of it now is dropped, to the run's end
                log.warning("%s", error)

    async def recheck_watched(self, before: float) -> None:
        """Make sure that the server still knows of the watches that began before that time: one that took over may
        not."""
        due = [run_id for run_id, since in self._newly_watched.items() if since <= before]
        for run_id in due[:RECHECK_RUNS_MAX]:
            if run_id in self._watched:
                await self._watch_again(run_id)
            self._newly_watched.pop(run_id, None)

    async def _watch_again(self, run_id: str) -> None:
        """Watch a run whose watch may be lost, and tell where it is now."""
        try:
            async with self._setting:
                if not await self._set_watching(run_id, on=True):
                    self._watched.discard(run_id)
        except StoreCorrupt:  # which the listener is told in a moment
            self._watched.discard(run_id)
        await self._tell_position(run_id)

    async def _set_watching(self, run_id: str, *, on: bool) -> bool:
        """Enter this worker among the run's watchers, or take it out; False where the run does not go on."""
        me = self._owned.worker_id

        async def ask(session_id: str) -> int | None:
            answer: int | None = await self._server.call(scripts.WATCH, run_key(session_id, run_id), me, int(on))
            return answer

        return bool(await self._records.find(run_id, ask))

    # -- commands ---------------------------------------------------------------------------------------------------

    def now_owned(self, run_id: str) -> None:
        """Take the commands that came for a run before it was known to be this worker's."""
        if run_id in self._unclaimed:
            del self._unclaimed[run_id]
            self.collect_commands([run_id])

    def collect_commands(self, run_ids: Iterable[str]) -> None:
        """Take the commands that wait for these runs, soon."""
        self._inbox.update(dict.fromkeys(run_ids))
        if self._inbox and (self._taking_commands is None or self._taking_commands.done()):
            self._taking_commands = asyncio.create_task(self._empty_inbox(), name="gapless-redis-inbox")

    async def _empty_inbox(self) -> None:
        while self._inbox:
            run_id = next(iter(self._inbox))
            del self._inbox[run_id]
            owned = self._owned.runs.get(run_id)
            if owned is None or self._listener is None:
                self._unclaimed[run_id] = None
                if len(self._unclaimed) > UNCLAIMED_MAX:
                    del self._unclaimed[next(iter(self._unclaimed))]
                continue
            try:
                found = await self._server.call(COLLECT, owned.key, owned.place, run_id, owned.heard)
                self._held.over()
                for id, command in zip(map(int, found[::2]), found[1::2], strict=True):
                    owned.heard = id
                    self._listener.on_command(run_id, command, id)
            except StoreCorrupt as error:
                log.error("run %s: its commands are gone: %s", run_id, error)
            except StoreUnavailable as error:
                self._held.failed(error)
                self._inbox[run_id] = None
                await asyncio.sleep(RECONNECT_PAUSE_S)
