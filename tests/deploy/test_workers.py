"""`gapless serve --workers N`: several processes on one socket, and any of them does for any run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.following import merged, rest_of, text_in
from support.processes import Server, Talks, client_of

WORKERS = 3
ATTEMPTS_MAX = 500
"""Connections until each worker has taken one; which of them does is the kernel's choice."""


@pytest.fixture(scope="module")
def server(start: Callable[..., list[Server]]) -> Server:
    return start("--workers", str(WORKERS))[0]


def taken_by(server: Server, client_port: int) -> int:
    """The worker that has the other end of a connection (proc(5): net/tcp and the process's sockets)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = (f"0100007F:{server.port:04X}", f"0100007F:{client_port:04X}")
    inode = next(row[9] for row in rows if (row[1], row[2]) == ends)
    for pid in server.workers():
        if any(link.is_symlink() and str(link.readlink()) == f"socket:[{inode}]" for link in _open(pid)):
            return pid
    raise AssertionError("no worker has it")


def _open(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


async def test_every_worker_starts_runs_and_each_is_whole(server: Server, talks: Talks, name: str):
    talks.say(name, "count", "word", "end")
    pids: set[int] = set()
    for _ in range(ATTEMPTS_MAX):
        async with client_of(server.url) as client:
            run = await client.start(name)
        async with client_of(server.url) as client:
            assert text_in(await rest_of(client.follow(run.id))) == "1 word "
        pids.add(talks.log("began", run.id)[0].pid)
        if len(pids) == WORKERS:
            break
    assert pids == set(server.workers())


async def test_every_worker_serves_any_run(server: Server, talks: Talks, name: str):
    async with client_of(server.url) as client:
        run = await client.start(name)
        follower = client.follow(run.id)
        talks.say(name, "shown")
        first = [await anext(follower)]
        followers: dict[int, tuple[httpx2.Client, httpx2.Response]] = {}
        for _ in range(ATTEMPTS_MAX):  # one open stream on each worker
            http = httpx2.Client(trust_env=False, verify=False, timeout=60)
            request = http.build_request("GET", f"{server.url}/runs/{run.id}/events?wire=text")
            response = http.send(request, stream=True)
            connection: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
            pid = taken_by(server, connection.getsockname()[1])
            if pid in followers:
                http.close()
                continue
            followers[pid] = (http, response)
            if len(followers) == WORKERS:
                break
        assert len(followers) == WORKERS
        talks.say(name, "and", "more", "end")
        journal = merged(first + await rest_of(follower))
        assert merged(list(enumerate((await client.page(run.id)).events, 1))) == journal
    for http, response in followers.values():
        text = response.read().decode()
        assert [word in text for word in ("shown", "and", "more", "[DONE]")] == [True] * 4
        http.close()


class Metrics(dict[tuple[str, ...], float]):
    """The samples of one scrape, which any of the workers answers."""

    def __init__(self, server: Server) -> None:
        with httpx2.Client(trust_env=False, verify=False) as http:
            text = http.get(f"{server.url}/metrics").text
        for family in text_string_to_metric_families(text):
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
    server = start("--workers", "2", environment={"TMPDIR": str(tmp_path)})[0]
    runs: list[str] = []
    while len(pids := {line.pid for line in talks.log("began") if line.run_id in runs}) < 2:
        async with client_of(server.url) as client:
            runs.append((await client.start(name)).id)
            await has_begun(talks, runs[-1])
    while (metrics := Metrics(server)).active < len(runs):  # a worker knows of another's a little later
        assert metrics.finished == 0
    assert metrics.active == len(runs)
    talks.say(name, "word", "end")
    async with client_of(server.url) as client:
        for run_id in runs:
            await rest_of(client.follow(run_id))
    while (metrics := Metrics(server)).finished < len(runs) or metrics.active:
        pass
    scrapes = [metrics]
    assert metrics.finished == len(runs), "each once"
    assert metrics["gapless_events_accepted_total",] == 5 * len(runs)
    assert metrics["gapless_first_event_seconds_count",] == metrics["gapless_first_event_seconds_bucket", "+Inf"]
    assert metrics["gapless_first_event_seconds_count",] == len(runs)

    async with client_of(server.url) as client:
        lost = await client.start(f"{name}-lost")
        await has_begun(talks, lost.id)
    while Metrics(server).active < 1:
        pass
    victim = talks.log("began", lost.id)[0].pid
    assert victim in pids
    os.kill(victim, signal.SIGKILL)
    while victim in server.workers() or len(server.workers()) < 2:
        await asyncio.sleep(0.01)
    while scrapes[-1].active or len(scrapes) < 20:  # its run is not being executed any more
        with contextlib.suppress(httpx2.TransportError):  # it was the dead worker's connection
            scrapes.append(Metrics(server))
    for before, after in itertools.pairwise(scrapes):
        for sample in before:
            if sample[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert after[sample] >= before[sample], sample
    assert list(tmp_path.iterdir())
    assert await asyncio.to_thread(server.terminate) == 0
    assert not list(tmp_path.iterdir())


async def has_begun(talks: Talks, run_id: str) -> None:
    while not talks.log("began", run_id):
        await asyncio.sleep(0.005)


def test_workers_end_with_the_process_that_started_them_however_it_went(
    start: Callable[..., list[Server]], tmp_path: Path
):
    server = start("--workers", "2", environment={"TMPDIR": str(tmp_path)})[0]
    assert list(tmp_path.iterdir()), "what they count"
    server.kill()
    for _ in range(ATTEMPTS_MAX):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) != 0:  # nobody keeps the port
                assert not list(tmp_path.iterdir()), "and nothing is left behind"
                return
        time.sleep(0.02)
    raise AssertionError("the workers go on without it")
