"""Delivering what is due in the outbox: at least once, with the same id, for a day.

A worker takes a notice for as long as one attempt may take and a little more. If it is lost meanwhile, the notice is
due again then, and another worker takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from gapless.errors import NoticeNotFound, StoreUnavailable
from gapless.journals.contract import Store
from gapless.journals.outbox import Notice
from gapless.journals.subscriptions import Subscription
from gapless.metrics import Metrics
from gapless.notify import NoticeRecord, NotifyConfig
from gapless.outage import Outage
from gapless.records import now_ms
from gapless.runs.notices import Telling, decode_telling, encode_telling, notice_record
from gapless.runs.posting import Outcome
from gapless.runs.push import Push, service_of
from gapless.runs.retrying import patiently
from gapless.runs.webhooks import Webhooks
from gapless.tasks import end_tasks

__all__ = ["Deliveries"]

POLL_S = 1.0
"""How often it is looked whether something is due that another worker left, or that is to be tried again."""
RETRY_FIRST_S, RETRY_FACTOR, RETRY_S_MAX = 5.0, 3.0, 4 * 3600.0
RETRY_JITTER = 0.1
"""A pause is longer by up to this share: what failed at once is not tried again at once."""
TRIED_S_MAX = 24 * 3600.0
"""A notice is given up when it could not be delivered for so long."""
TAKEN_S_MORE = 5.0
"""A notice is taken for the time of an attempt and this, in which the store has to hear what came of it."""
AT_ONCE_MAX, AT_ONCE_PER_HOST_MAX = 32, 4
"""Attempts of one worker at the same time."""
AT_ONCE_PER_USER_MAX = 8
"""Attempts at webhooks that one user has named, whatever their hosts: who names many that hang holds up no other."""
AT_ONCE_TO_BROWSERS_MAX, AT_ONCE_PER_SERVICE_MAX, AT_ONCE_TO_ONE_S_BROWSERS_MAX = 24, 16, 2
"""Attempts at browsers, of which each may be several posts; at those of one push service, so that one that hangs holds
up no other; and at those of one user. Of most runs no browser is to be told: to find that out takes no share."""
BUSY_S = 5.0
"""What is due for a host or a user that has its share of attempts is begun when one of these ends, of `WAITING_MAX`
notices. The others are looked at again after this, and after as long again for each `PUT_OFF_EACH` that were put off
since then: thousands of notices for a host that hangs are not all written anew every few seconds."""
PUT_OFF_EACH = 16
WAITING_MAX = 10_000
CLOSE_S = 2.0
"""What attempts that are under way get to come to an end when the worker stops."""

log = logging.getLogger("gapless.notify")


class _Share(NamedTuple):
    """Is what one host or one user may have of the attempts."""

    kind: str
    name: str
    attempts_max: int


class _NoRoom(Exception):
    """Is raised where a share of an attempt is taken: it is for later, at the latest in so many milliseconds."""

    def __init__(self, share: _Share, pause_ms: int) -> None:
        self.share = share
        self.pause_ms = pause_ms


def _shares_of_browsers(telling: Telling) -> list[_Share]:
    own = _Share("user's browsers", telling.user_id, AT_ONCE_TO_ONE_S_BROWSERS_MAX)
    return [_Share("browsers", "", AT_ONCE_TO_BROWSERS_MAX), own]


def _share_of_service(browser: Subscription) -> _Share:
    return _Share("push service", service_of(browser), AT_ONCE_PER_SERVICE_MAX)


def _shares(telling: Telling) -> list[_Share]:
    if not telling.url:
        return []  # until it is known that there are browsers
    shares = [_Share("host", urlsplit(telling.url).netloc, AT_ONCE_PER_HOST_MAX)]
    if telling.of_run:
        shares.append(_Share("user", telling.user_id, AT_ONCE_PER_USER_MAX))
    return shares


class Deliveries:
    """Delivers a store's notices, in a task of its own. `now` gives the time in milliseconds."""

    def __init__(
        self, store: Store, config: NotifyConfig, metrics: Metrics, *, now: Callable[[], int] = now_ms
    ) -> None:
        self._outbox = store.outbox
        self._config = config
        self._metrics = metrics
        self._now = now
        self._webhooks = Webhooks(config)
        self.push = Push(config, store) if config.push_key else None
        """Tells browsers, where there is a key."""
        self._secrets = {webhook.url: webhook.secret for webhook in config.webhooks}
        self._attempts: dict[asyncio.Task[None], list[_Share]] = {}
        """What is under way, and whose share each takes of what may be."""
        self._put_off = Counter[_Share]()
        """How many had to wait for a share since one of its attempts has ended."""
        self._waiting: dict[_Share, dict[str, tuple[str, int]]] = {}
        """Notices, by their id, that are begun when there is room in a share again: their run, and when (ms) they are
        due at the latest. Others may have taken them by then."""
        self._nudged: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin. Idempotent."""
        if self._task is None:
            self._nudged = asyncio.Event()
            self._task = asyncio.create_task(self._deliver(), name="gapless-notices")

    async def close(self) -> None:
        """Begin the attempts that are due, no others, and let them end for a moment; what is cut off is due again at
        once, for others. Idempotent."""
        if self._task is not None:
            task, self._task = self._task, None
            await end_tasks([task])
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(CLOSE_S):  # the runs that ended with this worker
                    await self.begin()
        if self._attempts:
            await asyncio.wait(list(self._attempts), timeout=CLOSE_S)
            await end_tasks(list(self._attempts))
        await self._webhooks.aclose()
        if self.push is not None:
            await self.push.aclose()

    def nudge(self) -> None:
        """Look now: something was written, or an attempt has ended."""
        if self._nudged is not None:
            self._nudged.set()

    async def _deliver(self) -> None:
        assert self._nudged is not None, "it is open"
        outage = Outage(log, "what is to be told of runs waits")
        while True:
            self._nudged.clear()
            more = False
            try:
                more = await self.begin()
                outage.over()
            except StoreUnavailable as error:
                outage.failed(error)
            except Exception as error:  # a bug; it must not keep everything else from being told
                log.error("%s while it was looked for what is to be told of runs", type(error).__name__)
                log.debug("notices", exc_info=error)
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._nudged.wait(), POLL_S)

    async def begin(self) -> bool:
        """Take what is due, as far as there is room, and begin its attempts; whether there may be more. Raises
        `StoreUnavailable`."""
        await self._resume()
        room = AT_ONCE_MAX - len(self._attempts)
        if room <= 0:
            return False
        now = self._now()
        taken = await self._outbox.take(now, self._until(now), room)
        for notice in taken:
            await self._start(notice)
        return len(taken) == room

    def _until(self, now: int) -> int:
        """Return until when a notice is taken that is begun `now`."""
        return now + int(1000 * (self._config.timeout_s + TAKEN_S_MORE))

    async def _resume(self) -> None:
        """Begin what waits for shares in which there is room again. Raises `StoreUnavailable`."""
        for share, waiting in list(self._waiting.items()):
            while waiting and len(self._attempts) < AT_ONCE_MAX and self._full([share]) is None:
                notice_id = next(iter(waiting))
                run_id, due_at = waiting.pop(notice_id)
                until = self._until(self._now())
                for notice in await self._outbox.of_run(run_id):
                    if (notice.id, notice.due_at) == (notice_id, due_at) and await self._outbox.settle(notice, until):
                        notice.due_at = until
                        await self._start(notice, share)
            if not waiting:
                del self._waiting[share]

    async def _start(self, notice: Notice, *held: _Share) -> None:
        """Begin the attempt of a notice that was taken, which has `held` until its shares are known. Raises
        `StoreUnavailable`."""
        try:
            telling = decode_telling(notice.data)
        except msgspec.DecodeError:  # of another version: a worker that can read it tells it
            log.warning("run %s: notice %s cannot be read here", notice.run_id, notice.id)
            return
        shares = _shares(telling) or list(held)
        try:
            self._check_room(shares)
        except _NoRoom as full:
            await self._put_off_until(notice, full)
            return
        task = asyncio.create_task(self._attempt(notice, telling), name=f"gapless-notice-{notice.id}")
        self._attempts[task] = shares
        task.add_done_callback(self._ended)

    async def _put_off_until(self, notice: Notice, full: _NoRoom) -> None:
        """Leave a notice for when there is room in a share, or it is due again: for any worker, should this one be
        lost. Raises `StoreUnavailable`."""
        due_at = self._now() + full.pause_ms
        if await self._outbox.settle(notice, due_at):
            waiting = self._waiting.setdefault(full.share, {})
            if len(waiting) < WAITING_MAX or notice.id in waiting:
                waiting[notice.id] = (notice.run_id, due_at)

    def _full(self, shares: list[_Share]) -> _Share | None:
        under_way = Counter(chain.from_iterable(self._attempts.values()))
        return next((share for share in shares if under_way[share] >= share.attempts_max), None)

    def _check_room(self, shares: list[_Share]) -> None:
        """Raises `_NoRoom`."""
        full = self._full(shares)
        if full is not None:
            pause_s = BUSY_S * (1 + self._put_off[full] // PUT_OFF_EACH)
            self._put_off[full] += 1
            raise _NoRoom(full, int(1000 * pause_s))

    async def settled(self) -> None:
        """Wait until no attempt is under way."""
        while self._attempts:
            await asyncio.wait(list(self._attempts))

    def _ended(self, task: asyncio.Task[None]) -> None:
        for share in self._attempts.pop(task):
            self._put_off.pop(share, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s", task.get_name(), type(error).__name__)
            log.debug("%s", task.get_name(), exc_info=error)
        self.nudge()

    async def _attempt(self, notice: Notice, telling: Telling) -> None:
        try:
            outcome = await self._tell(notice, telling)
        except asyncio.CancelledError:
            with contextlib.suppress(StoreUnavailable):
                await self._outbox.settle(notice, self._now())
            raise
        except _NoRoom as full:
            notice.data = encode_telling(telling)
            with contextlib.suppress(StoreUnavailable):  # it is due again by itself
                await self._put_off_until(notice, full)
            return
        due_at = self._note(notice, telling, outcome)
        notice.data = encode_telling(telling)
        try:
            settled = await patiently(self._outbox.settle, notice, due_at, patience_s=TAKEN_S_MORE)
        except StoreUnavailable as error:  # it is due again by itself, and told again
            log.warning("run %s: what came of notice %s is not kept: %s", notice.run_id, notice.id, error)
            return
        if settled:
            self._say(notice, telling, due_at)

    async def _tell(self, notice: Notice, telling: Telling) -> Outcome:
        if telling.url:
            return await self._webhooks.tell(telling.url, self._secret(telling), notice.id, telling.body)
        if self.push is None:
            return Outcome("there is no key to sign what browsers are sent")
        try:
            browsers = await self.push.browsers(telling)
        except StoreUnavailable:
            return Outcome("the store could not be asked who is to be told")
        if not browsers:
            return Outcome(nobody=not telling.done)
        task = asyncio.current_task()
        assert task is not None, "it was made for the attempt"
        self._attempts[task] = []
        shares = _shares_of_browsers(telling)
        self._check_room(shares)
        services, full = self._services_with_room(browsers)
        self._attempts[task] = [*shares, *services]
        told = [browser for browser in browsers if _share_of_service(browser) in services]
        left_ms = telling.made_at + int(1000 * TRIED_S_MAX) - self._now()
        outcome = await self.push.tell(notice, telling, told, left_ms // 1000)
        if full is not None and (outcome.gone or not outcome.error):
            raise full  # the others are told when there is room
        return outcome

    def _services_with_room(self, browsers: list[Subscription]) -> tuple[set[_Share], _NoRoom | None]:
        """Return the shares of the push services that may have one more attempt, and why others may not. Raises
        `_NoRoom` where none may."""
        found, full = set[_Share](), None
        for share in {_share_of_service(browser) for browser in browsers}:
            try:
                self._check_room([share])
                found.add(share)
            except _NoRoom as error:
                full = error
        if full is not None and not found:
            raise full
        return found, full

    def _secret(self, telling: Telling) -> str:
        return telling.secret or self._secrets.get(telling.url, "") or self._config.secret

    def _note(self, notice: Notice, telling: Telling, outcome: Outcome) -> int | None:
        """Write down what came of an attempt; when (ms) the next one is."""
        now = self._now()
        telling.attempts, telling.tried_at, telling.error = telling.attempts + 1, now, outcome.error
        if not outcome.error:
            telling.status = "nobody" if outcome.nobody else "delivered"
            return None
        last = telling.made_at + int(1000 * TRIED_S_MAX)
        if outcome.gone or now >= last:
            telling.status = "failed"
            return None
        pause_s = min(RETRY_FIRST_S * RETRY_FACTOR ** (telling.attempts - 1), RETRY_S_MAX)
        pause_s = max(pause_s * (1 + RETRY_JITTER * random.random()), outcome.retry_after_s)  # noqa: S311  # no secret
        return min(now + int(1000 * pause_s), last)

    def _say(self, notice: Notice, telling: Telling, due_at: int | None) -> None:
        if telling.status == "nobody":
            return
        self._metrics.notice_tried("retried" if telling.status == "pending" else telling.status)
        to = "its webhook" if telling.of_run else "the server's webhook" if telling.url else "its user's browsers"
        about = (notice.run_id, telling.type, notice.id, to)
        if telling.status == "delivered":
            log.debug("run %s: %s was told as %s to %s", *about)
        elif telling.status == "failed":
            log.error("run %s: %s could not be told as %s to %s: %s; given up", *about, telling.error)
        elif telling.attempts == 1:
            log.warning("run %s: %s could not be told as %s to %s: %s; tried again for a day", *about, telling.error)

    # -- what became of them ------------------------------------------------------------------------------------------

    async def of_run(self, run_id: str) -> list[NoticeRecord]:
        """Return the run's notices, oldest first. Raises `StoreUnavailable`."""
        found = []
        for notice in await self._outbox.of_run(run_id):
            with contextlib.suppress(msgspec.DecodeError):
                found.append(notice_record(notice))
        return sorted(found, key=lambda one: (one.made_at, one.id))

    async def again(self, run_id: str, notice_id: str) -> NoticeRecord:
        """Send a notice once more, under the same id, and for another day if need be. Raises `NoticeNotFound`,
        `StoreUnavailable`."""
        for notice in await self._outbox.of_run(run_id):
            if notice.id == notice_id:
                telling, now = decode_telling(notice.data), self._now()
                telling.status, telling.attempts, telling.made_at, telling.error = "pending", 0, now, ""
                telling.done.clear()
                notice.data = encode_telling(telling)
                if await self._outbox.settle(notice, now):
                    notice.due_at = now
                    self.nudge()
                return notice_record(notice)  # it was just taken or asked for otherwise
        raise NoticeNotFound(f"run {run_id} has no notice {notice_id}", run_id=run_id)
