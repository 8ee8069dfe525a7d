"""`gapless serve --workers N`: several processes on one socket, and any of them does for any run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.following import merged, rest_of, text_in
from tests.support.processes import Server, Talks, client_of
from tests.support.waiting import WAIT_S, until

WORKERS = 3
LONG_LEASE = {"GAPLESS_TEST_LEASE_S": "60"}
"""Of workers that are stopped while another one is alone, and of all on their store."""


@pytest.fixture(scope="module")
def server(start: Callable[..., list[Server]]) -> Server:
    return start("--workers", str(WORKERS), environment=LONG_LEASE)[0]


async def test_every_worker_starts_runs_and_each_is_whole(server: Server, talks: Talks, name: str):
    talks.say(name, "count", "word", "end")
    workers = server.workers()
    assert len(workers) == WORKERS
    for worker, other in zip(workers, workers[1:] + workers[:1], strict=True):
        with server.alone(worker):
            async with client_of(server.url) as client:
                run = await client.start(name)
                assert text_in(await rest_of(client.follow(run.id))) == "1 word "
        assert [line.pid for line in talks.log("began", run.id)] == [worker]
        with server.alone(other):
            async with client_of(server.url) as client:
                assert text_in(await rest_of(client.follow(run.id))) == "1 word "


async def test_every_worker_serves_any_run(server: Server, talks: Talks, name: str):
    async with client_of(server.url) as client:
        run = await client.start(name)
        follower = client.follow(run.id)
        talks.say(name, "shown")
        first = [await anext(follower)]
        followers: list[tuple[httpx2.Client, httpx2.Response]] = []
        for worker in server.workers():  # one open stream on each
            http = httpx2.Client(trust_env=False, verify=False, timeout=WAIT_S)
            request = http.build_request("GET", f"{server.url}/runs/{run.id}/events?wire=text")
            with server.alone(worker):
                followers.append((http, http.send(request, stream=True)))
        talks.say(name, "and", "more", "end")
        journal = merged(first + await rest_of(follower))
        assert merged(list(enumerate((await client.page(run.id)).events, 1))) == journal
    assert len(followers) == WORKERS
    for http, response in followers:
        text = response.read().decode()
        assert [word in text for word in ("shown", "and", "more", "[DONE]")] == [True] * 4
        http.close()


class Metrics(dict[tuple[str, ...], float]):
    """The samples of one scrape, which any of the workers answers."""

    def __init__(self, server: Server) -> None:
        with httpx2.Client(trust_env=False, verify=False, timeout=WAIT_S) as http:
            response = http.get(f"{server.url}/metrics")
        assert response.status_code == 200, response.text
        for family in text_string_to_metric_families(response.text):
            super().update({(sample.name, *sample.labels.values()): sample.value for sample in family.samples})

    @property
    def finished(self) -> float:
        return self.get(("gapless_runs_total", "agent", "finished"), 0.0)

    @property
    def active(self) -> float:
        return self["gapless_runs_active",]


async def test_metrics_are_those_of_all_workers_and_do_not_go_back_with_one_that_is_gone(
    start: Callable[..., list[Server]], talks: Talks, name: str, tmp_path: Path
):
    server = start("--workers", "2", environment={"TMPDIR": str(tmp_path), **LONG_LEASE})[0]
    runs: list[str] = []
    for worker in server.workers():
        with server.alone(worker):
            async with client_of(server.url) as client:
                runs.append((await client.start(name)).id)
                await has_begun(talks, runs[-1])
    (folder,) = tmp_path.iterdir()
    (folder / "counter_0.db").touch()  # as a worker that starts makes it, a moment before it is filled
    started = await until(lambda: (metrics := Metrics(server)).active == len(runs) and metrics, "all are active")
    assert started.finished == 0
    talks.say(name, "word", "end")
    async with client_of(server.url) as client:
        for run_id in runs:
            await rest_of(client.follow(run_id))

    def all_counted() -> Metrics | None:  # a worker knows of another's a little later, and not of all at once
        metrics = Metrics(server)
        first_events = metrics["gapless_first_event_seconds_count",]
        assert first_events == metrics["gapless_first_event_seconds_bucket", "+Inf"]
        counted = (metrics.finished, metrics.active, metrics["gapless_events_accepted_total",] / 5, first_events)
        return metrics if counted == (len(runs), 0, len(runs), len(runs)) else None

    scrapes = [await until(all_counted, "each counted once")]

    async with client_of(server.url) as client:
        lost = await client.start(f"{name}-lost")
        await has_begun(talks, lost.id)
    await until(lambda: Metrics(server).active == 1, "the run is active")
    victim = talks.log("began", lost.id)[0].pid
    os.kill(victim, signal.SIGKILL)
    await until(lambda: len(workers := server.workers()) == 2 and victim not in workers, "a new worker")

    def nothing_active() -> bool:
        with contextlib.suppress(httpx2.TransportError):  # it was the dead worker's connection
            scrapes.append(Metrics(server))
        return not scrapes[-1].active and len(scrapes) >= 20

    await until(nothing_active, "its run is not being executed any more")
    assert scrapes[-1].finished == len(runs)
    for before, after in itertools.pairwise(scrapes):
        for sample in before:
            if sample[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert after[sample] >= before[sample], sample
    assert list(tmp_path.iterdir())
    assert await asyncio.to_thread(server.terminate) == 0
    assert not list(tmp_path.iterdir())


async def has_begun(talks: Talks, run_id: str) -> None:
    await until(lambda: talks.log("began", run_id), f"run {run_id} begins")


async def test_workers_end_with_the_process_that_started_them_however_it_went(
    start: Callable[..., list[Server]], tmp_path: Path
):
    server = start("--workers", "2", environment={"TMPDIR": str(tmp_path), **LONG_LEASE})[0]
    assert list(tmp_path.iterdir()), "what they count"
    server.kill()

    def nobody_keeps_the_port() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", server.port)) != 0

    await until(nobody_keeps_the_port, "the workers end")
    assert not list(tmp_path.iterdir()), "and nothing is left behind"
