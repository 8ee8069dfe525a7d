"""docs/nginx.conf, as it is, in a real nginx: streams pass unbuffered, replicas may come and go, no POST goes twice."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect

from gapless import RunContext, Runner, create_app
from gapless.config import Limits
from gapless.testing import serving
from tests.support.following import Audience, check_all_saw_the_whole
from tests.support.processes import Server, Talks, client_of, free_port
from tests.support.waiting import WAIT_S, until

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on PATH (apt-get install nginx)")

CONF = Path(__file__).parents[2] / "docs" / "nginx.conf"
START_S_MAX = 120.0
RUNS = 6
KEY = "0123456789abcdef"


@contextlib.contextmanager
def nginx(folder: Path, *ports: int) -> Iterator[str]:
    """nginx with the documentation's configuration, its addresses replaced; yields its URL."""
    listen = free_port()
    conf = CONF.read_text().replace("listen 80;", f"listen 127.0.0.1:{listen};")
    for documented, port in zip(("8001", "8002"), ports, strict=True):
        conf, replaced = re.subn(rf"127\.0\.0\.1:{documented}\b", f"127.0.0.1:{port}", conf)
        assert replaced == 1
    (folder / "gapless.conf").write_text(conf)
    temporary = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log info;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} include {folder}/gapless.conf; }}\n"
    )
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    try:
        deadline = time.monotonic() + START_S_MAX
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listen}"
    finally:
        process.terminate()
        process.wait(START_S_MAX)


class Upstream:
    """An HTTP server that notes what it is asked, and answers or hangs up."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.connections = 0
        self.asked: list[bytes] = []
        self.port = 0

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.asked.append(head)
                if not self.answers:
                    break
                length = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S, verify=False) as http:
        yield http


@pytest.fixture
def replicas(start: Callable[..., list[Server]]) -> Iterator[list[Server]]:
    """With keys: then they answer under any name, as behind a proxy."""
    servers = start("--drain", "60", count=2, environment={"GAPLESS_API_KEYS": f"alice={KEY}"})
    yield servers
    for server in servers:
        server.close()


async def test_events_pass_one_by_one_as_they_come(
    replicas: list[Server], talks: Talks, name: str, tmp_path: Path, http: httpx2.AsyncClient
):
    headers = {"authorization": f"Bearer {KEY}", "accept": "text/event-stream", "accept-encoding": "gzip"}
    with nginx(tmp_path, *(server.port for server in replicas)) as url:
        body = {"message": name, "session_id": name}
        async with http.stream("POST", f"{url}/runs?wire=text", json=body, headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert "content-encoding" not in response.headers
            assert response.headers["content-location"].startswith("/runs/")
            received = ""
            pieces = response.aiter_text()
            for number in range(20):  # in lockstep: buffered, the first word would not come before the last
                talks.say(name, f"w{number}")
                while f"w{number} " not in received:
                    received += await anext(pieces)
            talks.say(name, "end")
            received += "".join([piece async for piece in pieces])
        assert "[DONE]" in received


async def test_a_live_run_passes(tmp_path: Path):
    async def parrot(ctx: RunContext) -> AsyncIterator[str]:
        async for request in ctx.live:
            yield f"You said {request.content}. "

    with serving(create_app(Runner(parrot))) as upstream:
        port = int(upstream.rpartition(":")[2])
        with nginx(tmp_path, port, port) as url:
            async with connect(url.replace("http", "ws", 1) + "/live", proxy=None) as socket:
                for word in ("one", "two"):  # in lockstep
                    await socket.send(f'{{"content": "{word}"}}')
                    while f"You said {word}. " not in await socket.recv():
                        pass
                await socket.send('{"close": true}')
                assert '"event":"end"' in [str(message) async for message in socket][-1]


async def test_a_rolling_restart_behind_nginx_loses_nothing(
    replicas: list[Server], talks: Talks, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GAPLESS_API_KEY", KEY)
    a, b = replicas
    with nginx(tmp_path, a.port, b.port) as url:
        for ending, other in ((a, b), (b, a)):
            talk = f"{name}-{ending.port}"
            runs = []
            for _ in range(RUNS):
                async with client_of(url) as client:
                    runs.append((await client.start(talk)).id)
            audience = Audience(url, runs)
            talks.say(talk, "one")
            await audience.has_heard("one ")
            drained = ending.drains()
            ending.signal(signal.SIGTERM)
            await until(lambda: ending.drains() > drained, "it lets its runs end")  # noqa: B023  # it is awaited here
            talks.say(talk, "two")
            await audience.has_heard("two ")
            async with client_of(url) as client:
                late = await client.start(talk)
                talks.say(talk, "end")
                assert [event async for event in client.follow(late.id)]
            await audience.end()
            assert await asyncio.to_thread(ending.wait) == 0
            assert [line.pid for line in talks.log("began", late.id)] == [other.pid]
            await check_all_saw_the_whole(audience, other, "one two ")
            ending.start()


async def test_connections_to_the_replicas_are_kept(tmp_path: Path, http: httpx2.AsyncClient):
    async with Upstream(answers=True) as one, Upstream(answers=True) as other:
        with nginx(tmp_path, one.port, other.port) as url:
            for _ in range(10):
                assert (await http.get(f"{url}/health")).text == "ok"
        assert len(one.asked + other.asked) == 10
        assert one.connections + other.connections == 2
        for head in one.asked + other.asked:
            assert head.startswith(b"GET /health HTTP/1.1\r\n")
            assert b"\r\nconnection:" not in head.lower()


@pytest.mark.parametrize(("method", "status", "asked"), [("GET", 200, 2), ("POST", 502, 1)])
async def test_what_a_replica_may_have_begun_is_not_asked_of_another(
    tmp_path: Path, http: httpx2.AsyncClient, method: str, status: int, asked: int
):
    async with Upstream(answers=False) as hangs_up, Upstream(answers=True) as answers:
        with nginx(tmp_path, hangs_up.port, answers.port) as url:
            response = await http.request(method, f"{url}/runs", content=b"{}" if method == "POST" else None)
    assert response.status_code == status
    assert len(hangs_up.asked + answers.asked) == asked


async def test_a_replica_that_is_not_there_costs_no_request(tmp_path: Path, http: httpx2.AsyncClient):
    async with Upstream(answers=True) as there:
        with nginx(tmp_path, free_port(), there.port) as url:
            for _ in range(3):
                assert (await http.post(f"{url}/runs", content=b"{}")).status_code == 200


async def test_the_largest_body_passes(tmp_path: Path, http: httpx2.AsyncClient):
    async with Upstream(answers=True) as one, Upstream(answers=True) as other:
        with nginx(tmp_path, one.port, other.port) as url:
            for size, status in ((Limits().body_bytes_max, 200), (Limits().body_bytes_max + 1, 413)):
                assert (await http.post(f"{url}/runs", content=b"x" * size)).status_code == status
