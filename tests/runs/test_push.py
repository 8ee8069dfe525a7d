"""Telling browsers: who is told what, what its push service may answer, and what is no subscription."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gapless import Interrupt, RunContext, RunFinishedEvent, Runner
from gapless.errors import InputInvalid, StoreCorrupt, StoreUnavailable, UsageError
from gapless.journals.memory import Memory, MemoryStore
from gapless.journals.memory_subscriptions import MemorySubscriptions
from gapless.metrics import Metrics
from gapless.notify import NotifyConfig
from gapless.runs.deliveries import AT_ONCE_PER_SERVICE_MAX, AT_ONCE_TO_BROWSERS_MAX, Deliveries
from gapless.runs.push import SUBSCRIPTIONS_PER_USER_MAX, Push, PushSubscription, check_push, new_keys
from tests.support.push_service import KEY, PUBLIC_KEY, PushService, push_config
from tests.support.runs import echo

GONE = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"
SLOWER = b"HTTP/1.1 429 Slower\r\nretry-after: 600\r\ncontent-length: 0\r\n\r\n"
NO = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"


def as_given(subscription: dict[str, Any]) -> PushSubscription:
    return msgspec.convert(subscription, PushSubscription)


async def asks(ctx: RunContext) -> AsyncIterator[str]:
    yield "Hm. "
    (answer,) = await ctx.interrupt([Interrupt(id="q1", reason="input_required", message="a secret question")])
    yield f"Thanks for {answer.payload}."


async def fails(message: str) -> AsyncIterator[str]:
    yield "a"
    raise RuntimeError("a secret text")


class Place:
    """A store, a service, and a worker that delivers by a clock of the test's."""

    def __init__(self, service: PushService) -> None:
        self.service = service
        self.memory = Memory()
        self.now = 0
        self.metrics = Metrics()
        self.worker = self.deliveries()

    def deliveries(self, **config: Any) -> Deliveries:
        return Deliveries(MemoryStore(self.memory), push_config(**config), self.metrics, now=lambda: self.now)

    def runner(self, agent: Any, **config: Any) -> Runner:
        """One that delivers nothing by itself."""
        runner = Runner(agent, store=MemoryStore(self.memory), notify=push_config(**config))

        async def begin() -> bool:
            return False

        runner.worker.deliveries.begin = begin  # type: ignore[method-assign]  # the test's worker delivers
        return runner

    async def subscribe(self, name: str, user_id: str = "u") -> None:
        assert self.worker.push is not None
        await self.worker.push.keep(user_id, as_given(self.service.subscription(name)))

    async def kept(self, user_id: str = "u") -> int:
        return len(await MemoryStore(self.memory).subscriptions.of_user(user_id))

    async def ended(self, *run_ids: str, agent: Any = echo, **more: Any) -> None:
        async with self.runner(agent) as runner:
            for run_id in run_ids:
                run = await runner.start("hello", **{"run_id": run_id, "user_id": "u", **more})
                await run.wait()
                for notice in await runner.store.outbox.of_run(run_id):
                    self.now = max(self.now, notice.due_at or 0)

    async def round(self) -> None:
        """Begin what is due, and wait for what comes of it."""
        await self.worker.begin()
        await self.worker.settled()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with PushService() as service:
        place = Place(service)
        yield place
        await place.worker.close()


async def test_a_user_s_browsers_are_told_that_a_run_has_ended() -> None:
    async with PushService() as service, Runner(echo, notify=push_config()) as runner:
        push = runner.worker.deliveries.push
        assert push is not None
        assert push.public_key == PUBLIC_KEY
        for name, user_id in (("laptop", "u"), ("phone", "u"), ("other", "somebody else")):
            await push.keep(user_id, as_given(service.subscription(name)))
        run = await runner.start("Hello there\nand more", run_id="r", session_id="s", user_id="u")
        await run.wait()
        await service.until(2)
        await runner.worker.deliveries.settled()
        assert sorted(name for name, _ in service.received) == ["laptop", "phone"]
        (said,), (same,) = service.told("laptop"), service.told("phone")
        assert said == same
        (notice,) = await runner.notices("r")
        assert (notice.to, notice.status, notice.attempts) == ("browsers", "delivered", 1)
        assert said.pop("at") == notice.made_at
        assert said == {
            "id": notice.id,
            "type": "run.finished",
            "status": "finished",
            "run_id": "r",
            "session_id": "s",
            "agent": "echo",
            "title": "Hello there",
        }
        assert runner.metrics.notices == {"delivered": 1}


async def test_a_question_is_told_and_a_failure_and_never_what_was_said(place: Place) -> None:
    await place.subscribe("phone")
    async with place.runner(asks) as runner:
        run = await runner.start("hello", run_id="r", user_id="u")
        async for event in run.events():
            if isinstance(event, RunFinishedEvent):
                break
        (notice,) = await runner.store.outbox.of_run("r")
        place.now = notice.due_at or 0
        await place.round()
        await runner.rename_session(run.session_id, "Renamed")
        await run.cancel()
        await run.wait()
    await place.ended("f", agent=fails)
    place.now += 1
    await place.round()
    first, second = place.service.told("phone")
    assert (first["type"], first["title"]) == ("run.waiting", "hello")
    assert (second["type"], second["run_id"]) == ("run.failed", "f"), "of what was cancelled nobody is told"
    assert "secret" not in f"{first}{second}"
    assert [headers["urgency"] for headers in place.service.headers] == ["high", "normal"]


async def test_the_title_is_as_it_is_when_it_is_told_or_left_out(place: Place) -> None:
    await place.subscribe("phone")
    await place.ended("r", session_id="s")
    async with place.runner(echo) as runner:
        await runner.rename_session("s", "é👩🏽‍🚀" * 20)
    await place.round()
    assert place.service.told("phone")[0]["title"] == "é👩🏽‍🚀" * 20
    async with place.runner(echo, push_titles=False) as runner:
        (notice,) = await runner.store.outbox.of_run("r")
        place.worker = place.deliveries(push_titles=False)
        await place.worker.again("r", notice.id)
        await place.round()
    assert "title" not in place.service.told("phone")[1]


async def test_what_is_longest_still_fits(place: Place) -> None:
    await place.subscribe("phone")
    ids = {"run_id": "r" * 96, "session_id": "s" * 96}
    async with place.runner(echo) as runner:
        run = await runner.start("hello", user_id="u", **ids)
        await run.wait()
        await runner.rename_session("s" * 96, '"' * 100 + "\U0010ffff" * 100)
        place.now = (await runner.store.outbox.of_run(run.id))[0].due_at or 0
    await place.round()
    assert len(place.service.told("phone")) == 1


@pytest.mark.parametrize("answer", [GONE, NOT_FOUND])
async def test_what_a_service_has_forgotten_is_kept_no_more(place: Place, answer: bytes) -> None:
    await place.subscribe("old")
    await place.subscribe("new")
    place.service.answers["old"] = answer
    await place.ended("r")
    await place.round()
    (notice,) = await place.worker.of_run("r")
    assert (notice.status, await place.kept()) == ("delivered", 1)
    await place.ended("r2")
    await place.round()
    assert len(place.service.told("old")) == 1
    assert len(place.service.told("new")) == 2


async def test_only_who_has_not_got_it_is_told_again_under_the_same_id(place: Place) -> None:
    await place.subscribe("laptop")
    await place.subscribe("phone")
    place.service.answers["phone"] = NO
    await place.ended("r")
    await place.round()
    (notice,) = await place.worker.of_run("r")
    assert (notice.status, notice.error) == ("pending", "it answers 500")
    assert notice.next_at is not None
    place.now = notice.next_at
    place.service.answers.clear()
    await place.round()
    assert len(place.service.told("laptop")) == 1
    assert [said["id"] for said in place.service.told("phone")] == [notice.id] * 2
    (notice,) = await place.worker.of_run("r")
    assert (notice.status, notice.attempts, notice.error) == ("delivered", 2, "")
    waits = [int(headers["ttl"]) for headers in place.service.headers]
    assert waits[0] == 24 * 3600 > waits[-1], "a service keeps it for what is left of the day"
    await place.worker.again("r", notice.id)
    await place.round()
    assert len(place.service.told("laptop")) == 2, "when somebody asks, all are told"


async def test_a_service_that_wants_a_pause_gets_it(place: Place) -> None:
    await place.subscribe("phone")
    place.service.answers["phone"] = SLOWER
    await place.ended("r")
    await place.round()
    (notice,) = await place.worker.of_run("r")
    assert notice.next_at == place.now + 600_000


async def test_what_is_too_large_for_a_service_is_not_sent_again(place: Place) -> None:
    await place.subscribe("phone")
    place.service.answers["phone"] = TOO_LARGE
    await place.ended("r")
    await place.round()
    (notice,) = await place.worker.of_run("r")
    assert (notice.status, notice.error, await place.kept()) == ("failed", "it answers 413", 1)


async def test_a_user_without_a_browser_costs_nothing_more(place: Place) -> None:
    await place.ended("r")
    await place.round()
    (notice,) = await place.worker.of_run("r")
    assert (notice.status, notice.next_at) == ("nobody", None)
    assert place.metrics.notices == {}


async def test_users_without_a_browser_hold_up_nobody(place: Place) -> None:
    """Of one user, whom all are where nobody authenticates, many runs may end at the same instant."""
    await place.ended(*(f"r{n}" for n in range(20)))
    await place.round()
    assert {(await place.worker.of_run(f"r{n}"))[0].status for n in range(20)} == {"nobody"}


async def test_a_record_that_cannot_be_read_is_told_of_without_its_title(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get_session(self: Any, session_id: str) -> Any:
        raise StoreCorrupt("of another version")

    await place.subscribe("phone")
    await place.ended("r")
    monkeypatch.setattr(MemoryStore, "get_session", get_session)
    await place.round()
    assert place.service.told("phone")[0]["title"] == ""


async def test_while_the_store_is_away_it_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: Any, of: str) -> Any:
        raise StoreUnavailable("away")

    await place.subscribe("phone")
    await place.ended("r")
    for kind, method in ((MemorySubscriptions, "of_user"), (MemoryStore, "get_session")):
        with monkeypatch.context() as patch:
            patch.setattr(kind, method, away)
            await place.round()
        (notice,) = await place.worker.of_run("r")
        assert (notice.status, notice.error[:9]) == ("pending", "the store")
        place.now = notice.next_at or 0
    await place.round()
    assert len(place.service.told("phone")) == 1


async def test_a_worker_without_the_key_leaves_it_to_others(place: Place) -> None:
    await place.subscribe("phone")
    await place.ended("r")
    without = Deliveries(MemoryStore(place.memory), NotifyConfig(), place.metrics, now=lambda: place.now)
    await without.begin()
    await without.settled()
    (notice,) = await without.of_run("r")
    assert (notice.status, notice.error) == ("pending", "there is no key to sign what browsers are sent")
    place.now = notice.next_at or 0
    await place.round()
    assert len(place.service.told("phone")) == 1


async def test_of_a_user_s_browsers_those_used_last_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapless.runs.push.now_ms", itertools.count(1).__next__)
    for n in range(SUBSCRIPTIONS_PER_USER_MAX + 1):
        await place.subscribe(f"b{n}")
    await place.ended("r")
    await place.round()
    assert len(place.service.received) == SUBSCRIPTIONS_PER_USER_MAX
    assert not place.service.told("b0")


async def test_who_subscribes_for_another_user_takes_the_browser_along(place: Place) -> None:
    await place.subscribe("shared", "u")
    await place.subscribe("shared", "u2")
    await place.ended("r", user_id="u")
    await place.ended("r2", user_id="u2")
    await place.round()
    assert [said["run_id"] for said in place.service.told("shared")] == ["r2"]


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "http://push.example.com/x"},
        {"endpoint": "https://127.0.0.1/x"},
        {"endpoint": "https://localhost:1/x"},
        {"endpoint": "https://[::1]/x"},
        {"endpoint": "https://[2606:4700::1111]/x"},
        {"endpoint": "https://user@push.example.com/x"},
        {"endpoint": "https://user:word@push.example.com/x"},
        {"endpoint": "file:///etc/passwd"},
        {"endpoint": "https://push.example.com/" + "x" * 2048},
        {"keys": {"p256dh": "x" * 10_000, "auth": "A" * 22}},
        {"keys": {"p256dh": "B" * 87, "auth": "A" * 22}},
        {"keys": {"p256dh": "", "auth": "A" * 22}},
        {"keys": {"p256dh": PUBLIC_KEY, "auth": "A" * 20}},
        {"keys": {"p256dh": PUBLIC_KEY, "auth": "é" * 22}},
    ],
)
async def test_what_is_no_subscription_is_refused(change: dict[str, Any]) -> None:
    push = Push(push_config(http=False, private=False), MemoryStore())
    good = {"endpoint": "https://push.example.com/x", "keys": {"p256dh": PUBLIC_KEY, "auth": "A" * 22}}
    await push.keep("u", as_given(good))
    with pytest.raises(InputInvalid):
        await push.keep("u", as_given(good | change))
    await push.aclose()


async def test_a_name_that_leads_to_this_machine_is_not_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.subscribe("phone")
    await place.ended("r")
    place.worker = place.deliveries(private=False)
    await place.round()
    (notice,) = await place.worker.of_run("r")
    assert notice.error == "its address is not public; others are the operator's to allow"
    assert place.service.received == []


def test_a_pair_of_keys_is_one() -> None:
    private, public = new_keys()
    assert check_push(push_config(push_key=private)) == public
    assert check_push(push_config()) == PUBLIC_KEY
    assert private != new_keys()[0]


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"push_key": "short"}, ValueError),
        ({"push_key": PUBLIC_KEY}, ValueError),
        ({"push_subject": ""}, ValueError),
        ({"push_subject": "ops@example.com"}, ValueError),
        ({"push_subject": "mailto:nobody"}, UsageError),
        ({"push_key": "A" * 43}, UsageError),
        ({"push_titles": 1}, ValueError),
    ],
)
def test_settings_that_no_service_would_take_are_refused(more: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        check_push(push_config(**more))
    assert KEY not in str(raised.value)


async def test_as_many_runs_of_one_user_as_end_at_once_are_told_one_after_the_other(place: Place) -> None:
    """None waits for longer than it has to: what waits for its share goes on when an attempt ends, at the same time."""
    await place.subscribe("phone")
    await place.ended(*(f"r{n}" for n in range(60)))
    done = -1
    while done < (done := len(place.service.received)) < 60:
        while await place.worker.begin():
            pass
        await place.worker.settled()
    assert sorted(said["run_id"] for said in place.service.told("phone")) == sorted(f"r{n}" for n in range(60))
    assert place.service.busy_most <= 2


async def test_a_push_service_that_hangs_holds_up_no_other(place: Place) -> None:
    """Of who has browsers at both, the one that can be told is told, and the other one when there is room."""
    place.service.answers = dict.fromkeys(("phone", *map(str, range(AT_ONCE_TO_BROWSERS_MAX))))
    for number in range(AT_ONCE_TO_BROWSERS_MAX):
        await place.subscribe(str(number), f"user-{number}")
        await place.ended(f"r{number}", user_id=f"user-{number}")
    async with PushService() as other:
        await place.subscribe("phone")
        assert place.worker.push is not None
        await place.worker.push.keep("u", as_given(other.subscription("desk")))
        await place.ended("r")
        while await place.worker.begin():
            pass
        await other.until(1)
        await place.service.until(AT_ONCE_PER_SERVICE_MAX)
        (notice,) = await place.worker.of_run("r")
        assert notice.status == "pending", "the phone is told later"
        await place.worker.close()  # what hangs is cut off, and due again
        assert place.service.busy_most == AT_ONCE_PER_SERVICE_MAX
        place.service.answers.clear()
        place.worker = place.deliveries()
        while notice.status == "pending":
            place.now += 60_000
            await place.round()
            (notice,) = await place.worker.of_run("r")
        assert [said["run_id"] for said in other.told("desk")] == ["r"]
        assert [said["run_id"] for said in place.service.told("phone")] == ["r"]


async def test_names_that_nobody_answers_for_hold_up_no_other_s_browsers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def look_up(host: Any, port: Any, **more: Any) -> list[Any]:
        if str(host).endswith("example.com"):
            assert answered.wait(60)
            return []
        return socket.getaddrinfo(host, port, **more)

    monkeypatch.setattr("gapless.runs.posting.getaddrinfo", look_up)
    place.worker = place.deliveries(timeout_s=60.0)
    assert place.worker.push is not None
    for number in range(4):
        for name in range(SUBSCRIPTIONS_PER_USER_MAX):
            given = place.service.subscription("slow") | {"endpoint": f"https://{name}.{number}.example.com/"}
            await place.worker.push.keep(f"user-{number}", as_given(given))
        await place.ended(f"r{number}", user_id=f"user-{number}")
    await place.subscribe("phone")
    await place.ended("r")
    try:
        await place.worker.begin()
        await place.service.until(1)
    finally:
        answered.set()


async def test_browsers_that_hang_hold_up_webhooks_of_nobody(place: Place) -> None:
    """Of one user's at most two attempts go on at the same time."""
    await place.subscribe("phone")
    place.service.answers["phone"] = None
    await place.ended(*(f"r{n}" for n in range(5)))
    await place.worker.begin()
    await place.service.until(2)
    states = [(await place.worker.of_run(f"r{n}"))[0].next_at for n in range(5)]
    assert len(place.service.received) == 2
    assert states.count(place.now + 5000) == 3, "which are looked at again soon"
    await place.worker.close()
