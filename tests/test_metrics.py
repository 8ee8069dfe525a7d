"""What is counted is what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gapless import Runner, create_app
from gapless.journals.memory import Memory, MemoryStore
from gapless.metrics import Histogram
from tests.support.agents import Gated

STREAM = {"accept": "text/event-stream"}


async def words(message: str) -> AsyncIterator[str]:
    if message == "fail":
        raise ValueError("secret")
    for word in ("a", "b", "c"):
        yield word


async def test_the_numbers_after_some_runs():
    runner = Runner(words)
    transport = httpx2.ASGITransport(create_app(runner))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for message in ("hi", "hi", "fail"):
            await client.post("/runs", json={"message": message, "run_id": f"{message}-{id(message)}"}, headers=STREAM)
        run_id = (await client.get("/runs?status=finished")).json()["runs"][0]["id"]
        await client.get(f"/runs/{run_id}/events?after=1", headers=STREAM)
        while runner.executions:  # the last run's journal is closed a moment before its execution ends
            await asyncio.sleep(0)
        response = await client.get("/metrics")
    await runner.close()
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples["gapless_runs_total", "words", "finished"] == 1  # the second start came back to the first's run
    assert samples["gapless_runs_total", "words", "agent_failed"] == 1
    assert samples["gapless_runs_active",] == 0
    assert samples["gapless_followers",] == 0
    assert samples["gapless_events_accepted_total",] == 7 + 2
    assert samples["gapless_events_merged_total",] >= 2
    assert samples["gapless_reconnects_total",] == 1
    assert samples["gapless_first_event_seconds_count",] == 1
    assert samples["gapless_store_append_seconds_count",] >= 2
    assert "secret" not in response.text


async def test_a_run_of_a_lost_worker_is_counted_once():
    memory, now, agent = Memory(), [0.0], Gated("a")
    workers = [Runner(agent, store=MemoryStore(memory, monotonic=lambda: now[0]), lease_s=1000) for _ in range(2)]
    lost, other = workers
    run = await lost.start("x", run_id="r")
    await agent.started.wait()
    await other.open()
    for _ in range(6):  # a lease and a half, in which it does not renew
        now[0] += 250
        await other.sweep()
    await (await other.attach(run.id)).wait()
    await lost.sweep()
    await agent.stopped.wait()
    for worker in workers:
        await worker.close()
    assert (lost.metrics.runs, other.metrics.runs) == ({}, {("gated", "worker_lost"): 1})
    assert (lost.metrics.leases_lost, other.metrics.runs_taken_over) == (1, 1)


def test_buckets_are_cumulative():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert histogram.total == pytest.approx(12.0)
