"""`gapless serve --workers N`: several processes on one socket, and any of them does for any run."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

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


async def test_each_worker_answers_for_itself_about_metrics(server: Server, talks: Talks, name: str):
    """What docs/deploy.md says of `--workers`: the numbers are those of the process that answers."""
    async with client_of(server.url) as client:
        run = await client.start(name)
    seen = set()
    for _ in range(ATTEMPTS_MAX):
        with httpx2.Client(trust_env=False, verify=False) as http:
            text = http.get(f"{server.url}/metrics").text
        seen.add(next(line for line in text.splitlines() if line.startswith("gapless_runs_active ")))
        if len(seen) == 2:
            break
    assert seen == {"gapless_runs_active 0.0", "gapless_runs_active 1.0"}
    talks.say(name, "end")
    async with client_of(server.url) as client:
        await rest_of(client.follow(run.id))


def test_workers_end_with_the_process_that_started_them_however_it_went(start: Callable[..., list[Server]]):
    server = start("--workers", "2")[0]
    server.kill()
    for _ in range(ATTEMPTS_MAX):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) != 0:
                return  # nobody keeps the port
        time.sleep(0.02)
    raise AssertionError("the workers go on without it")
