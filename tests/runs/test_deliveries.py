"""Delivering what is due: at least once, with the same id, for a day; one worker at a time, and a few at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import Counter
from typing import Any

import pytest

from gapless import NotifyConfig, Runner, Webhook
from gapless.errors import NoticeNotFound, StoreUnavailable
from gapless.journals.memory import Memory, MemoryStore
from gapless.metrics import Metrics
from gapless.runs import deliveries as module
from gapless.runs.deliveries import AT_ONCE_MAX, AT_ONCE_PER_HOST_MAX, AT_ONCE_PER_USER_MAX, Deliveries
from gapless.runs.posting import Outcome
from gapless.runs.webhooks import Webhooks
from tests.support.receiver import SECRET, Receiver
from tests.support.runs import echo

NO = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
HOUR_MS = 3600 * 1000


def config(*urls: str, **more: Any) -> NotifyConfig:
    webhooks = tuple(Webhook(url=url, secret=SECRET) for url in urls)
    return NotifyConfig(webhooks=webhooks, http=True, private=True, **more)


class Place:
    """A store with ended runs, and workers that deliver by a clock of the test's."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = 0
        self.metrics = Metrics()
        self.opened: list[Deliveries] = []

    async def ended(self, to: NotifyConfig, *run_ids: str, **more: Any) -> None:
        """Let these runs end at a worker that tells nobody."""
        async with Runner(echo, store=MemoryStore(self.memory), notify=to) as runner:
            runner.worker.deliveries.begin = self._nothing  # type: ignore[method-assign]  # it is only made here
            for run_id in run_ids:
                await (await runner.start("hello", run_id=run_id, **more)).wait()
            for run_id in run_ids:
                for notice in await runner.store.outbox.of_run(run_id):
                    self.now = max(self.now, notice.due_at or 0)

    async def _nothing(self) -> bool:
        return False

    def worker(self, to: NotifyConfig) -> Deliveries:
        worker = Deliveries(MemoryStore(self.memory), to, self.metrics, now=lambda: self.now)
        self.opened.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self.opened:
            await worker.close()


@pytest.fixture
async def place() -> Any:
    place = Place()
    yield place
    await place.close()


async def round_of(worker: Deliveries) -> None:
    """Begin what is due, and wait for what comes of it."""
    await worker.begin()
    await worker.settled()


async def test_a_run_s_end_is_told_as_soon_as_it_is_accepted() -> None:
    async with Receiver() as receiver, Runner(echo, notify=config(receiver.url)) as runner:
        run = await runner.start("hello", run_id="r")
        await run.wait()
        await receiver.until(1)
        ((_, body),) = receiver.received
        assert (body["type"], body["data"]["run_id"]) == ("run.finished", "r")
        assert receiver.unverified == 0
        await runner.worker.deliveries.settled()
        (notice,) = await runner.notices("r")
        assert (notice.status, notice.attempts, notice.next_at, notice.error) == ("delivered", 1, None, "")
        assert runner.metrics.notices == {"delivered": 1}


async def test_a_webhook_of_the_run_s_own_is_signed_with_its_own_secret(place: Place) -> None:
    own = "whsec_" + "b3duIG9u" * 4
    async with Receiver(secret=own) as receiver:
        to = NotifyConfig(secret=SECRET, http=True, private=True)
        await place.ended(to, "r", notify=Webhook(url=receiver.url, secret=own))
        await round_of(place.worker(to))
        assert len(receiver.received) == 1
        assert receiver.unverified == 0


async def test_a_notice_is_tried_for_a_day_with_longer_and_longer_pauses(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with Receiver(lambda number: NO) as receiver:
        to = config(receiver.url)
        await place.ended(to, "r")
        worker, began, pauses = place.worker(to), place.now, list[int]()
        await round_of(worker)
        while (notice := (await worker.of_run("r"))[0]).status == "pending":
            assert notice.next_at is not None
            pauses.append(notice.next_at - place.now)
            place.now = notice.next_at - 1
            await round_of(worker)
            assert len(receiver.received) == len(pauses), "not before it is due"
            place.now += 1
            await round_of(worker)
        assert notice.status == "failed"
        assert notice.error == "it answers 500"
        assert place.now - began == 24 * HOUR_MS
        assert pauses[0] >= 5000
        assert all(1.9 * one < next for one, next in itertools.pairwise(pauses[:7]))
        assert max(pauses) <= 4.4 * HOUR_MS
        assert 10 <= notice.attempts == len(receiver.received) <= 20
        assert {id for id, _ in receiver.received} == {notice.id}, "at each attempt the same"
        place.now += 24 * HOUR_MS
        await round_of(worker)
        assert len(receiver.received) == notice.attempts
    assert place.metrics.notices == {"retried": notice.attempts - 1, "failed": 1}
    said = [record for record in caplog.records if record.name == "gapless.notify"]
    assert [record.levelno for record in said] == [logging.WARNING, logging.ERROR]
    assert SECRET not in caplog.text
    assert "/hook" not in caplog.text


async def test_what_failed_at_last_is_sent_again_when_somebody_asks(place: Place) -> None:
    answers = {1: b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"}
    async with Receiver(lambda number: answers.get(number, b"HTTP/1.1 204 No\r\n\r\n")) as receiver:
        to = config(receiver.url)
        await place.ended(to, "r")
        worker = place.worker(to)
        await round_of(worker)
        (failed,) = await worker.of_run("r")
        assert (failed.status, failed.error, failed.next_at) == ("failed", "it answers 410", None)
        place.now += 48 * HOUR_MS
        again = await worker.again("r", failed.id)
        assert (again.status, again.attempts, again.next_at) == ("pending", 0, place.now)
        await round_of(worker)
        assert [id for id, _ in receiver.received] == [failed.id] * 2
        assert (await worker.of_run("r"))[0].status == "delivered"
        await worker.again("r", failed.id)
        await round_of(worker)
        assert len(receiver.received) == 3, "one that was taken, too"
        for run_id, notice_id in (("r", "other"), ("other", failed.id)):
            with pytest.raises(NoticeNotFound):
                await worker.again(run_id, notice_id)


async def test_a_receiver_says_how_long_to_wait(place: Place) -> None:
    slow = b"HTTP/1.1 429 Slow\r\nRetry-After: 1000\r\ncontent-length: 0\r\n\r\n"
    async with Receiver(lambda number: slow) as receiver:
        await place.ended(to := config(receiver.url), "r")
        worker = place.worker(to)
        await round_of(worker)
        assert (await worker.of_run("r"))[0].next_at == place.now + 1000 * 1000


async def test_one_worker_at_a_time_tells_and_another_takes_over_from_one_that_is_lost(place: Place) -> None:
    async with Receiver(lambda number: None if number == 1 else b"HTTP/1.1 204 No\r\n\r\n") as receiver:
        await place.ended(to := config(receiver.url), "r")
        lost, other = place.worker(to), place.worker(to)
        await lost.begin()
        await receiver.until(1)
        await round_of(other)
        place.now += int(1000 * (to.timeout_s + module.TAKEN_S_MORE)) - 1
        await round_of(other)
        assert len(receiver.received) == 1
        place.now += 1
        await round_of(other)
        assert len(receiver.received) == 2
        assert receiver.received[0] == receiver.received[1], "the same id and the same words"
        assert (await other.of_run("r"))[0].status == "delivered"


async def test_what_is_cut_off_when_a_worker_stops_is_due_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.01)
    async with Receiver(lambda number: None if number == 1 else b"HTTP/1.1 204 No\r\n\r\n") as receiver:
        await place.ended(to := config(receiver.url), "r")
        stops, other = place.worker(to), place.worker(to)
        await stops.begin()
        await receiver.until(1)
        await stops.close()
        await round_of(other)
        assert [id for id, _ in receiver.received] == [receiver.received[0][0]] * 2


async def test_few_attempts_at_once_go_to_one_host_and_others_do_not_wait_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, told = asyncio.Event(), list[str]()

    async def tell(self: Webhooks, url: str, secret: str, notice_id: str, body: str) -> Outcome:
        told.append(url)
        if "hangs" in url:
            await under_way.wait()
        return Outcome()

    monkeypatch.setattr(Webhooks, "tell", tell)
    hangs, good = config("https://hangs.example.com/"), config("https://good.example.com/")
    await place.ended(hangs, *(f"r{n}" for n in range(40)))
    await place.ended(good, "good")
    worker = place.worker(hangs)
    while await worker.begin():
        assert len(worker._attempts) <= AT_ONCE_MAX
    await asyncio.sleep(0)
    assert told.count("https://hangs.example.com/") == AT_ONCE_PER_HOST_MAX
    assert told.count("https://good.example.com/") == 1
    under_way.set()
    while len(told) < 41:
        place.now += int(1000 * module.BUSY_S)
        await round_of(worker)
    assert len(told) == 41


async def test_the_more_wait_for_a_host_that_hangs_the_more_rarely_each_is_looked_at(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = asyncio.Event()

    async def tell(self: Webhooks, url: str, secret: str, notice_id: str, body: str) -> Outcome:
        await under_way.wait()
        return Outcome()

    monkeypatch.setattr(Webhooks, "tell", tell)
    hangs, waiting = config("https://hangs.example.com/"), 3 * module.PUT_OFF_EACH
    await place.ended(hangs, *(f"r{n}" for n in range(AT_ONCE_PER_HOST_MAX + waiting)))
    worker, busy_ms, first = place.worker(hangs), int(1000 * module.BUSY_S), place.now
    while await worker.begin():
        pass
    outbox = MemoryStore(place.memory).outbox
    put_off = Counter[float]()
    for number in range(AT_ONCE_PER_HOST_MAX + waiting):
        (notice,) = await outbox.of_run(f"r{number}")
        put_off[((notice.due_at or 0) - first) / busy_ms] += 1
    assert [put_off[pauses] for pauses in (1, 2, 3)] == [module.PUT_OFF_EACH] * 3
    under_way.set()
    await worker.settled()
    place.now += 3 * busy_ms
    await round_of(worker)
    assert worker._put_off.total() == 0, "one that answers has all again as soon as before"


async def test_what_waits_for_a_host_goes_on_when_an_attempt_ends_unless_another_worker_has_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, told = asyncio.Event(), Counter[str]()

    async def tell(self: Webhooks, url: str, secret: str, notice_id: str, body: str) -> Outcome:
        told[notice_id] += 1
        await under_way.wait()
        return Outcome()

    monkeypatch.setattr(Webhooks, "tell", tell)
    hangs = config("https://hangs.example.com/")
    await place.ended(hangs, *(f"r{n}" for n in range(60)))
    first, second = place.worker(hangs), place.worker(hangs)
    while await first.begin():
        pass
    place.now += int(1000 * module.BUSY_S)  # some of what waits is due for everybody
    await second.begin()
    await asyncio.sleep(0)
    assert len(told) == 2 * AT_ONCE_PER_HOST_MAX
    under_way.set()
    known = 0
    while known < (known := len(told)):  # while there is progress, and no time passes
        for worker in (first, second):
            await worker.begin()
            await worker.settled()
    assert len(told) == 60
    assert set(told.values()) == {1}


async def test_who_names_many_hosts_that_hang_holds_up_no_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, told = asyncio.Event(), list[str]()

    async def tell(self: Webhooks, url: str, secret: str, notice_id: str, body: str) -> Outcome:
        told.append(url)
        if "hangs" in url:
            await under_way.wait()
        return Outcome()

    monkeypatch.setattr(Webhooks, "tell", tell)
    ours = config("https://ours.example.com/")
    for number in range(AT_ONCE_MAX + 8):
        hangs = {"url": f"https://{number}.hangs.example.com/", "secret": SECRET}
        await place.ended(NotifyConfig(), f"m{number}", user_id="mallory", notify=hangs)
    await place.ended(ours, "r", user_id="ann", notify={"url": "https://ann.example.com/", "secret": SECRET})
    worker = place.worker(ours)
    while await worker.begin():
        pass
    await asyncio.sleep(0)
    assert sum("hangs" in url for url in told) == AT_ONCE_PER_USER_MAX
    assert sorted(url for url in told if "hangs" not in url) == [
        "https://ann.example.com/",
        "https://ours.example.com/",
    ]
    under_way.set()
    while len(told) < AT_ONCE_MAX + 10:
        place.now += int(1000 * module.BUSY_S)
        await round_of(worker)


async def test_a_store_that_is_away_costs_a_repeat_and_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAKEN_S_MORE", 0.0)
    async with Receiver() as receiver:
        await place.ended(to := config(receiver.url), "r")
        worker = place.worker(to)

        async def away(*_: object) -> bool:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(worker._outbox, "settle", away)
            await round_of(worker)
        assert (await worker.of_run("r"))[0].status == "pending"
        place.now += int(1000 * to.timeout_s)
        await round_of(worker)
        assert [id for id, _ in receiver.received] == [receiver.received[0][0]] * 2
        assert (await worker.of_run("r"))[0].status == "delivered"


async def test_what_another_version_wrote_is_left_to_it(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    await place.ended(to := config("https://hooks.example.com/"), "r")
    outbox = MemoryStore(place.memory).outbox
    (notice,) = await outbox.of_run("r")
    odd = json.loads(notice.data) | {"status": "of another version"}
    notice.data = json.dumps(odd).encode()
    assert await outbox.settle(notice, notice.due_at)
    worker = place.worker(to)
    await round_of(worker)
    assert "cannot be read here" in caplog.text
    assert await worker.of_run("r") == []
    assert (await outbox.of_run("r"))[0].due_at is not None


async def test_what_ended_with_a_worker_is_told_as_it_stops() -> None:
    async with Receiver() as receiver:
        async with Runner(echo, notify=config(receiver.url)) as runner:
            await (await runner.start("hello")).wait()
        assert len(receiver.received) == 1
        assert runner.metrics.notices == {"delivered": 1}


async def test_who_only_looks_at_runs_takes_no_notice(place: Place) -> None:
    """A command on the store has none of the server's settings: its attempts would fail."""
    await place.ended(config("https://hooks.example.com/"), "r")
    async with Runner(store=MemoryStore(place.memory)) as looks:
        assert looks.worker.deliveries._task is None
        assert [notice.attempts for notice in await looks.notices("r")] == [0]
