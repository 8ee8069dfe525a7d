"""What is told of a run, to whom, and what is left out of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gapless import Interrupt, NotifyConfig, ResumeEntry, RunContext, RunFinishedEvent, Runner, Webhook
from gapless.errors import InputInvalid, RunConflict
from gapless.journals.contract import Store
from gapless.journals.memory import Memory, MemoryStore
from gapless.notify import is_public
from gapless.records import RunRecord, decode_run
from gapless.runs import deliveries
from gapless.runs.notices import Telling, decode_telling

NOT_PUBLIC = """
10.1.2.3 127.0.0.1 169.254.1.1 172.16.0.1 192.168.0.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255
::1 :: fe80::1 fe80::1%eth0 fd00::1 ff02::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::1
fec0::1 3fff::1 168.63.129.16 ::ffff:168.63.129.16 64:ff9b::a83f:8110
""".split()  # noqa: SIM905  # shorter to read
SECRET = "whsec_" + "c2VjcmV0" * 5
OURS = "https://hooks.example.com/ours"
OWN = "https://own.example.com/path-that-is-a-secret"


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def begin(self: Any) -> bool:
        return False

    monkeypatch.setattr(deliveries.Deliveries, "begin", begin)


async def tellings(store: Store, run_id: str) -> list[Telling]:
    found = [decode_telling(notice.data) for notice in await store.outbox.of_run(run_id)]
    return sorted(found, key=lambda one: (json.loads(one.body)["data"]["seq"], one.of_run))


async def asks(ctx: RunContext) -> AsyncIterator[str]:
    yield "Hm. "
    question = Interrupt(id="q1", reason="input_required", message="a secret question", metadata={"a": 1})
    (answer,) = await ctx.interrupt([question])
    yield f"Thanks for {answer.payload}."


async def fails(message: str) -> AsyncIterator[str]:
    yield "a"
    raise RuntimeError("a secret text")


def both(agent: Any, text: bool = False) -> Runner:
    ours = Webhook(url=OURS, secret=SECRET, text=text)
    return Runner(agent, store=MemoryStore(Memory()), notify=NotifyConfig(webhooks=(ours,), secret=SECRET))


async def waits(runner: Runner, **more: Any) -> str:
    run = await runner.start("hello", **more)
    async for event in run.events():
        if isinstance(event, RunFinishedEvent):
            break
    return run.id


async def test_a_question_and_the_end_are_told_to_all_that_were_named() -> None:
    async with both(asks) as runner:
        run_id = await waits(runner, notify=OWN, session_id="s", user_id="u")
        asked, own = await tellings(runner.store, run_id)
        assert (asked.url, own.url) == (OURS, OWN)
        assert (asked.of_run, own.of_run) == (False, True)
        record = await runner.get_run(run_id)
        body = json.loads(asked.body)
        assert body["type"] == asked.type == "run.waiting"
        assert body["timestamp"].endswith("Z")
        assert body["data"] == {
            "run_id": run_id,
            "session_id": "s",
            "user_id": "u",
            "agent": record.agent,
            "status": "waiting",
            "seq": record.last_seq,
            "interrupts": [{"id": "q1", "reason": "input_required"}],
        }
        assert asked.body == own.body
        await runner.answer(run_id, [ResumeEntry(interrupt_id="q1", status="resolved", payload="4711")])
        run = await runner.attach(run_id)
        await run.collect()
        *_, ended, _ = told = await tellings(runner.store, run_id)
        assert [one.type for one in told] == ["run.waiting"] * 2 + ["run.finished"] * 2
        assert json.loads(ended.body)["data"]["seq"] == (await runner.get_run(run_id)).last_seq
        assert "4711" not in str([one.body for one in told])


@pytest.mark.parametrize("text", [False, True])
async def test_texts_are_told_only_to_who_is_to_have_them(text: bool) -> None:
    async with both(asks, text) as runner:
        (told,) = await tellings(runner.store, await waits(runner))
        assert ("a secret question" in told.body) is text
        asked = json.loads(told.body)["data"]["interrupts"][0]
        assert (asked.get("metadata") == {"a": 1}) is text
    async with both(fails, text) as runner:
        run = await runner.start("hello")
        await run.wait()
        (told,) = await tellings(runner.store, run.id)
        error = json.loads(told.body)["data"]["error"]
        assert told.type == "run.failed"
        assert error["code"] == "agent_failed"
        assert ("RuntimeError" in error.get("message", "")) is text
        assert "a secret text" not in told.body


async def test_a_text_that_is_too_long_is_left_out() -> None:
    async def asks_long(ctx: RunContext) -> AsyncIterator[str]:
        await ctx.interrupt([Interrupt(id="q", reason="input_required", message="x" * 70_000)])
        yield "never"

    async with both(asks_long, text=True) as runner:
        (told,) = await tellings(runner.store, await waits(runner))
        assert len(told.body) < 1000
        assert json.loads(told.body)["data"]["interrupts"] == [{"id": "q", "reason": "input_required"}]


async def test_a_cancelled_run_is_told_of_and_one_that_nobody_is_told_of_is_not() -> None:
    async with both(asks) as runner:
        run_id = await waits(runner)
        await runner.cancel(run_id)
        await (await runner.attach(run_id)).wait()
        assert [one.type for one in await tellings(runner.store, run_id)] == ["run.waiting", "run.cancelled"]
    async with Runner(asks) as runner:
        assert await runner.store.outbox.of_run(await waits(runner)) == []


async def test_a_run_that_is_closed_for_a_lost_worker_is_told_of() -> None:
    memory = Memory()

    ever = asyncio.Event()

    async def hangs(message: str) -> AsyncIterator[str]:
        yield "a"
        await ever.wait()

    config = NotifyConfig(webhooks=(Webhook(url=OURS, secret=SECRET),))
    lost = await Runner(hangs, store=MemoryStore(memory)).open()
    run = await lost.start("hello", notify=Webhook(url=OWN, secret=SECRET))
    async for _ in run.text():
        break
    del memory.beats[lost.worker_id]
    async with Runner(hangs, store=MemoryStore(memory), notify=config) as other:
        await other.sweep()
        await (await other.attach(run.id)).wait()
        assert [one.type for one in await tellings(other.store, run.id)] == ["run.failed"] * 2
    await lost.close()


async def test_who_is_told_is_part_of_what_is_asked_and_of_no_list() -> None:
    async with both(asks) as runner:
        run_id = await waits(runner, run_id="r", session_id="s", notify=Webhook(url=OWN, secret=SECRET))
        assert (await runner.get_run(run_id)).notify == Webhook(url=OWN, secret=SECRET)
        assert (await runner.list_runs())[0].notify is None
        with pytest.raises(RunConflict):
            await runner.start("hello", run_id="r", session_id="s")
        (record,) = [one for one in await runner.notices("r") if one.to != "server"]
        assert (record.to, record.status, record.type) == ("https://own.example.com/…", "pending", "run.waiting")
        shown = repr((await runner.get_run(run_id), await runner.notices("r"), runner.notify))
        assert SECRET not in shown
        assert "path-that-is" not in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("http://hooks.example.com/", "the operator's to allow"),
        ("ftp://hooks.example.com/", "an address"),
        ("https://", "an address"),
        ("https://user:password@hooks.example.com/", "without a user"),
        ("https://localhost/x", "no public address"),
        ("https://127.0.0.1/x", "no public address"),
        ("https://[::1]/x", "no public address"),
        ("https://[::ffff:10.0.0.1]/x", "no public address"),
        ("https://169.254.169.254/latest", "no public address"),
        ("https://hooks.example.com/" + "x" * 2048, "at most 2048"),
        ("https://hooks.example.com/\n", "an address"),
        ({"url": OURS, "secret": "short"}, "random bytes"),
        ({"url": OURS, "secret": "whsec_c2hvcnQ="}, "random bytes"),
        ({"url": OURS, "more": 1}, "notify"),
        ({"secret": SECRET}, "notify"),
        (7, "notify"),
    ],
)
async def test_what_is_no_webhook_is_refused_at_the_start(given: Any, said: str) -> None:
    async with both(asks) as runner:
        with pytest.raises(InputInvalid, match=said) as raised:
            await runner.start("hello", notify=given)
        assert "password" not in str(raised.value) or "and a password" in str(raised.value)
        assert await runner.list_runs() == []


async def test_without_any_secret_nothing_is_told() -> None:
    async with Runner(asks) as runner:
        with pytest.raises(InputInvalid, match="whsec_"):
            await runner.start("hello", notify=OWN)
        await runner.start("hello", notify={"url": OWN, "secret": SECRET})
    with pytest.raises(ValueError, match="whsec_"):
        NotifyConfig(webhooks=(Webhook(url=OURS),))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),
        *[(address, False) for address in NOT_PUBLIC],
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_record_with_a_webhook_is_read_again() -> None:

    webhook = Webhook(url=OWN, secret=SECRET, text=True)
    record = RunRecord(id="r", session_id="s", user_id="u", agent="a", message="m", created_at=1, notify=webhook)
    assert decode_run(msgspec.json.encode(record)).notify == webhook
