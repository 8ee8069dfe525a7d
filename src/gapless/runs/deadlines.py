"""The deadlines of a run, and until when what it asks may be answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from gapless.config import RunConfig
from gapless.events import Interrupt
from gapless.records import now_ms

__all__ = ["Deadlines", "dated", "due_at"]

IDLE_CHECKS = 4
"""How often within `idle_timeout` progress is looked for."""


class Deadlines:
    """Watches the deadlines of one run, on the event loop's clock (seconds). Time spent waiting for a person counts for
    none of them, nor does what passes before `begin`."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.begun = False
        self._attention: asyncio.Future[None] | None = None
        """Done when what counts for the deadlines has changed."""
        self._first = self._seen = 0
        """Positions of the newest event: at the beginning, and when it was last looked at."""
        self._started = self._moved = self._looked = 0.0
        self._waiting = False

    def begin(self, appended: int, now: float, used_s: float = 0.0) -> None:
        """Begin to count: the run's turn has come, with `appended` events in its journal. `used_s` were counted at
        another worker."""
        self.begun = True
        self._first = self._seen = appended
        self._moved = self._looked = now
        self._started = now - used_s
        self.attend()

    def attend(self, _: object = None) -> None:
        """Have the deadlines looked at anew, or whatever else has changed for who waits for that."""
        if self._attention is not None and not self._attention.done():
            self._attention.set_result(None)

    async def changed(self, timeout_s: float | None) -> None:
        """Wait until they want to be looked at, for `timeout_s` seconds at most."""
        loop = asyncio.get_running_loop()
        self._attention = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self.attend)
        try:
            await self._attention
        finally:
            if timer is not None:
                timer.cancel()

    def used_s(self, now: float) -> float:
        """Return the run's time that counts for its `timeout`."""
        return (self._looked if self._waiting else now) - self._started

    def look(self, now: float, appended: int, *, waiting: bool) -> None:
        """Take note of where the run stands."""
        if self._waiting:
            self._started += now - self._looked
            self._moved = now
        if appended != self._seen:
            self._seen, self._moved = appended, now
        self._waiting, self._looked = waiting, now

    def _due(self) -> list[tuple[float, str]]:
        config = self._config
        found: list[tuple[float, str]] = []
        if self._waiting:
            return found
        if config.timeout is not None:
            found.append((self._started + config.timeout, "timeout"))
        if config.first_event_timeout is not None and self._seen == self._first:
            found.append((self._started + config.first_event_timeout, "first_event_timeout"))
        if config.idle_timeout is not None:
            found.append((self._moved + config.idle_timeout, "idle_timeout"))
        return found

    def passed(self, now: float) -> str | None:
        """Name the deadline that has passed, if one has."""
        at, name = min(self._due(), default=(now, ""))
        return f"{name}={getattr(self._config, name):g} s" if name and at <= now else None

    def next_s(self, now: float) -> float | None:
        """Return in how many seconds they have to be looked at again; None for when something changes."""
        due = self._due()
        if not due:
            return None
        wake_s = min(due)[0] - now
        if self._config.idle_timeout is not None:
            wake_s = min(wake_s, self._config.idle_timeout / IDLE_CHECKS)
        return max(wake_s, 0.0)


def dated(interrupts: Iterable[Interrupt], answer_timeout: float | None) -> list[Interrupt]:
    """Return them each with the time until which it may be answered, `answer_timeout` seconds from now where the agent
    has set none."""
    if answer_timeout is None:
        return list(interrupts)
    at = datetime.fromtimestamp(now_ms() / 1000 + answer_timeout, UTC)
    expires_at = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return [one if one.expires_at else msgspec.structs.replace(one, expires_at=expires_at) for one in interrupts]


def due_at(interrupts: Iterable[Interrupt]) -> int | None:
    """Return until when (ms) these may be answered, by the first of them that expires; None: for ever."""
    found = []
    for interrupt in interrupts:
        with contextlib.suppress(ValueError):  # an agent's own: a time that cannot be read does not count
            if interrupt.expires_at:
                at = datetime.fromisoformat(interrupt.expires_at)
                found.append(int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000))
    return min(found, default=None)
