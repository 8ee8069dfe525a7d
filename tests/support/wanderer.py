"""A client that moves between replicas at every cut, and is cut often."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from gapless import RunConfig
from gapless.client import ClientLimits, GaplessClient
from gapless.errors import ConnectionLost, GaplessError
from gapless.records import RunRecord
from tests.support.following import Seen
from tests.support.processes import client_of

RETRY_S = 0.05


def impatient(url: str) -> GaplessClient:
    """A client that leaves coming back to its caller."""
    limits = ClientLimits(
        connect_timeout_s=1, answer_timeout_s=5, attempts_max=1, request_attempts_max=1, retry_first_s=RETRY_S
    )
    return client_of(url, limits=limits)


class Wanderer:
    """Starts and follows runs through whichever replica answers."""

    def __init__(self, clients: Sequence[GaplessClient], seed: int, stay_s: float | None = None) -> None:
        self.cuts = 0
        self._clients = clients
        self._stay_s = stay_s
        self._rng = random.Random(seed)

    async def start(
        self, message: str, run_id: str, config: RunConfig | None = None, *, session_id: str | None = None
    ) -> RunRecord:
        """Ask until somebody says that the run is there."""
        while True:
            try:
                return await self._rng.choice(self._clients).start(
                    message, run_id=run_id, config=config, session_id=session_id
                )
            except GaplessError as error:
                tolerate(error)
            await asyncio.sleep(RETRY_S)

    async def follow(self, run_id: str) -> Seen:
        """All that a client gets, to the end. It stays nowhere for longer than `stay_s` or so."""
        seen: Seen = []
        while True:
            stream = self._rng.choice(self._clients).follow(run_id, seen[-1][0] if seen else 0)
            stay_s = None if self._stay_s is None else self._stay_s * 2 * self._rng.random()
            try:
                async with asyncio.timeout(stay_s):
                    async for entry in stream:
                        seen.append(entry)
                    return seen
            except TimeoutError:
                pass
            except GaplessError as error:
                tolerate(error)
                await asyncio.sleep(RETRY_S)
            finally:
                await stream.aclose()
            self.cuts += 1

    async def journal(self, run_id: str) -> Seen:
        """The run's whole journal as it is stored."""
        events: Seen = []
        while True:
            try:
                page = await self._rng.choice(self._clients).page(run_id, len(events))
            except GaplessError as error:
                tolerate(error)
                await asyncio.sleep(RETRY_S)
                continue
            events += enumerate(page.events, len(events) + 1)
            if page.ended and len(events) == page.last_seq:
                return events


def tolerate(error: GaplessError) -> None:
    """That a replica is gone, stopping or without its store is what clients are to live with."""
    if not isinstance(error, ConnectionLost) and error.status not in (429, 503):
        raise error
