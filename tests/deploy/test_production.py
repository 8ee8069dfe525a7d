"""examples/deploy/production.py, as docs/deploy.md says to run it; and the copy of a store that is in use."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from gapless.records import RunStatus
from tests.support.following import rest_of, text_in, text_to
from tests.support.processes import Server, Talks, client_of, free_port
from tests.support.waiting import WAIT_S

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"
START_S_MAX = 120.0
ALICE = {"x-forwarded-user": "alice"}


@contextlib.contextmanager
def production(
    store: str, folder: Path = EXAMPLES, app: str = "production:app", environment: dict[str, str] | None = None
) -> Iterator[tuple[httpx2.Client, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--app-dir", folder, "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "STORE": store, **(environment or {})})
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/agents", trust_env=False, timeout=WAIT_S) as http:
            deadline = time.monotonic() + START_S_MAX
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if http.get("/ready").status_code == 200:
                        break
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield http, process
    finally:
        process.kill()
        process.wait()


def test_an_app_under_a_path_behind_a_proxy(tmp_path: Path):
    with production(f"sqlite:///{tmp_path / 'gapless.db'}") as (http, process):
        assert http.post("/runs", json={"message": "hi"}).status_code == 401
        started = http.post("/runs", json={"message": "hi"}, headers=ALICE)
        location = started.headers["content-location"]
        assert location == f"/agents/runs/{started.json()['id']}/events"
        body = http.get(location.removeprefix("/agents"), headers=ALICE).text
        assert "event: end" in body
        assert http.get(location.removeprefix("/agents"), headers={"x-forwarded-user": "bob"}).status_code == 404
        origin = {"origin": "https://app.example.com"}
        assert http.get("/health", headers=origin).headers["access-control-allow-origin"] == origin["origin"]
        process.send_signal(signal.SIGTERM)
        process.wait(START_S_MAX)


def test_an_app_under_a_path_drains_at_sigterm_though_it_is_followed(tmp_path: Path, talks: Talks, name: str):
    (tmp_path / "slow.py").write_text(
        "import production, talks\nfrom gapless.agents import adapt\n"
        "production.runner.agents['agent'] = adapt(talks.agent)\napp = production.app\n"
    )
    environment = talks.environment | {"PYTHONPATH": f"{talks.folder}:{EXAMPLES}:{os.environ.get('PYTHONPATH', '')}"}
    with production(f"sqlite:///{tmp_path / 'gapless.db'}", tmp_path, "slow:app", environment) as (http, process):
        headers = ALICE | {"accept": "text/event-stream"}
        with http.stream("POST", "/runs", json={"message": name}, headers=headers) as response:
            talks.say(name, "one")
            pieces, received = response.iter_text(), ""
            while "one " not in received:
                received += next(pieces)
            process.send_signal(signal.SIGTERM)
            while http.get("/ready").status_code == 200:
                assert process.poll() is None
            talks.say(name, "two", "end")
            received += "".join(pieces)
        assert "two " in received
        assert [frame for frame in received.split("\n\n") if frame][-1].startswith("event: end")
        process.wait(START_S_MAX)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'gapless.db'}"


async def test_a_copy_of_a_store_in_use_is_whole(
    start: Callable[..., list[Server]], store: str, talks: Talks, name: str, tmp_path: Path
):
    (server,) = start()
    talks.say(f"{name}-ended", "all", "of", "it", "end")
    async with client_of(server.url) as client:
        ended = await client.start(f"{name}-ended")
        assert text_in(await rest_of(client.follow(ended.id))) == "all of it "
        active = await client.start(f"{name}-active")
        talks.say(f"{name}-active", "so", "far")
        await text_to(client.follow(active.id), "far ")
        with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as db:
            db.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
        talks.say(f"{name}-active", "end")
        await rest_of(client.follow(active.id))
    copy = Server(tmp_path, store=f"sqlite:///{tmp_path / 'copy.db'}", agent=talks.agent, environment=talks.environment)
    with contextlib.closing(copy):
        copy.start()
        async with client_of(copy.url) as client:
            assert text_in(await rest_of(client.follow(ended.id))) == "all of it "
            assert len(await client.messages(ended.session_id)) == 2
            record = await client.record(active.id)
            if record.status is not RunStatus.RUNNING:  # its worker, which is not on this copy, has been found lost
                assert (record.error or {}).get("code") == "worker_lost"
            events = (await client.page(active.id)).events[:4]
            assert text_in(list(enumerate(events, 1))) == "so far "
