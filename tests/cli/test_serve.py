"""`gapless serve`: where it listens and for whom, how it ends, several processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gapless.cli.listen import DESCRIPTORS_KEPT, server_config
from gapless.client import Cut, GaplessClient
from gapless.config import ConnectionLimits
from gapless.events import RunFinishedEvent, TextMessageContentEvent
from tests.cli.conftest import COMMAND
from tests.support import preloaded
from tests.support.waiting import WAIT_S, until

KEY = "0123456789abcdef"


def answers(url: str, **options: Any) -> httpx2.Response:
    return httpx2.get(url, timeout=WAIT_S, trust_env=False, **options)


def test_serves_the_page_and_names_what_it_serves(server: Callable[..., Any], agents: str) -> None:
    serving = server(f"{agents}:words", f"other={agents}:whole", "--port", "0", "--store", "memory://")
    assert serving.banner["agents"] == "words, other"
    assert serving.banner["store"] == "memory://"
    assert answers(serving.url + "/health").json() == {"status": "ok"}
    assert "text/html" in answers(serving.url + "/").headers["content-type"]
    text = answers(serving.url + "/chat/stream", params={"query": "hi", "agent": "other"}).text
    assert '{"text":"All of it in one piece."}' in text
    assert serving.stop() == 0
    (line,) = serving.log.read_text().splitlines()  # a run is a line, and its text is in none
    assert "finished after 5 events" in line
    assert "piece" not in line


def test_it_takes_all_descriptors_that_it_may_have_and_no_more_connections_than_these_are_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))  # what a shell has by default
    try:
        config = server_config(None, limits=ConnectionLimits(connections_max=10**9))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    protocol: Any = config.http
    assert protocol.keywords["limits"].connections_max == hard - DESCRIPTORS_KEPT


def test_ctrl_c_ends_it_in_order_too(server: Callable[..., Any], agents: str) -> None:
    serving = server(f"{agents}:words", "--port", "0", "--store", "memory://")
    assert answers(serving.url + "/ready").status_code == 200
    assert serving.stop(signal.SIGINT) == 0


def test_ctrl_c_says_that_runs_finish_and_again_ends_at_once(server: Callable[..., Any], agents: str) -> None:
    serving = server(f"{agents}:endless", "--port", "0", "--store", "memory://", "--drain", "3000")
    with httpx2.stream(
        "POST",
        serving.url + "/runs",
        json={"message": "hi"},
        headers={"accept": "text/event-stream"},
        timeout=WAIT_S,
        trust_env=False,
    ) as following:
        lines = following.iter_lines()
        next(lines)
        serving.process.send_signal(signal.SIGINT)
        while "Ctrl-C again ends at once" not in serving.log.read_text():
            next(lines)  # the run goes on meanwhile
        assert serving.stop(signal.SIGINT) == 0
    assert "shutting_down" in serving.log.read_text()


def test_other_names_are_refused_while_nobody_is_authenticated(server: Callable[..., Any], agents: str) -> None:
    serving = server(f"{agents}:words", "--port", "0", "--store", "memory://")
    assert answers(serving.url + "/health", headers={"host": "rebound.example"}).status_code == 403
    assert answers(serving.url.replace("127.0.0.1", "localhost") + "/health").status_code == 200


def test_refuses_to_listen_beyond_this_machine_without_authentication(run: Any, agents: str) -> None:
    done = run("serve", f"{agents}:words", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert "set GAPLESS_API_KEYS=name=key, or add --insecure" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machine_is_refused(run: Any, agents: str, host: str) -> None:
    done = run("serve", f"{agents}:words", "--host", host, "--insecure", "--port", "0", "--store", "memory://")
    assert done.returncode != 0
    assert done.stderr.startswith(f"Error: --host {host}")
    assert "0.0.0.0 for all of its networks" in done.stderr
    assert done.stderr.count("\n") == 1


def test_listens_beyond_this_machine_with_keys(server: Callable[..., Any], agents: str, run: Any) -> None:
    arguments = (f"{agents}:words", "--host", "0.0.0.0", "--port", "0", "--store", "memory://")
    serving = server(*arguments, env={"GAPLESS_API_KEYS": f"alice={KEY},{KEY[::-1]}"})
    for key in ({}, {"GAPLESS_API_KEY": "another"}):
        refused = run("runs", "--url", serving.url, env=key)
        assert (refused.returncode, "; set GAPLESS_API_KEY to one that the server knows" in refused.stderr) == (1, True)
    assert run("runs", "--url", serving.url, env={"GAPLESS_API_KEY": KEY}).returncode == 0
    assert re.fullmatch(r"alice, key-[0-9a-f]{12}", serving.banner["users"]), (
        "a key without a name has one all the same"
    )
    assert answers(serving.url + "/runs").status_code == 401
    headers = {"authorization": f"Bearer {KEY}", "host": "any.name"}
    assert answers(serving.url + "/runs", headers=headers).status_code == 200


def test_listens_beyond_this_machine_when_told_that_it_is_insecure(server: Callable[..., Any], agents: str) -> None:
    serving = server(f"{agents}:words", "--host", "0.0.0.0", "--port", "0", "--store", "memory://", "--insecure")
    assert answers(serving.url + "/runs").status_code == 200
    assert "Anyone who reaches this port" in serving.log.read_text()


def test_a_short_key_is_refused(run: Any, agents: str) -> None:
    done = run("serve", f"{agents}:words", env={"GAPLESS_API_KEYS": "short"})
    assert (done.returncode, "shorter than 16" in done.stderr) == (2, True)


def test_a_port_in_use_is_one_line_that_says_what_to_do(run: Any, agents: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", f"{agents}:words", "--port", str(port), "--store", "memory://")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: port {port} of 127.0.0.1 is in use: stop what listens there, or choose another with --port "
        "(0: any free one)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message", "exit_code"),
    [
        (["--workers", "2", "--store", "memory://"], "needs a store that processes share", 2),
        (["--store", "sqlite:////no/such/folder/x.db"], "the folder /no/such/folder does not exist", 1),
        (["--host", "no.such.host.invalid", "--insecure"], "--host no.such.host.invalid", 2),
    ],
)
def test_what_cannot_work_is_said_at_once(
    run: Any, agents: str, arguments: list[str], message: str, exit_code: int
) -> None:
    done = run("serve", f"{agents}:words", *arguments)
    assert message in done.stderr
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1)


def test_two_agents_of_one_name_are_refused(run: Any, agents: str) -> None:
    done = run("serve", f"{agents}:words", f"words={agents}:ticks")
    assert done.returncode == 2
    assert f"two agents are named 'words': give one another name, e.g. words-2={agents}:ticks" in done.stderr


async def test_sigterm_in_mid_answer_serves_those_who_read_it_to_its_end(
    server: Callable[..., Any], agents: str
) -> None:
    """Nobody is cut while the run goes on, and who comes back meanwhile reads on; a new run is not taken, and what is
    half sent is no traceback."""
    serving = server(f"{agents}:ticks", "--port", "0", "--store", "sqlite:///gapless.db", "--drain", "60")
    cuts: list[Cut] = []
    pieces: list[str] = []
    port = int(serving.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)) as half_a_head,
        socket.create_connection(("127.0.0.1", port)) as half_a_body,
    ):
        half_a_head.sendall(b"GET /runs HTTP/1.1\r\n")
        half_a_body.sendall(
            b"POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        async with GaplessClient(serving.url, on_cut=cuts.append) as client:
            run = await client.start("hi")
            async for _, event in client.follow(run.id):
                if isinstance(event, TextMessageContentEvent):
                    pieces.append(event.delta)
                if pieces and serving.process.poll() is None and len(pieces) == 1:
                    late = await asyncio.to_thread(_stop_and_ask, serving, agents, run.id)
        assert await asyncio.to_thread(serving.process.wait, WAIT_S) == 0
        assert b" 503 " in half_a_body.recv(4096)
    assert isinstance(event, RunFinishedEvent)
    whole = "".join(f"tick{number} " for number in range(100))
    assert "".join(pieces) == whole
    assert not cuts
    assert late.status_code == 200
    assert "event: end" in late.text
    log = serving.log.read_text()
    assert "draining 1 runs" in log
    assert "Traceback" not in log
    assert not re.search(r"tick\d", log), "what is said is in no log"


def _stop_and_ask(serving: Any, agents: str, run_id: str) -> httpx2.Response:
    """Tell it to stop, and read the run anew while it lets that end."""
    serving.process.send_signal(signal.SIGTERM)
    while "draining" not in serving.log.read_text():
        assert serving.process.poll() is None
        time.sleep(0.01)
    assert answers(serving.url + "/ready").status_code == 503
    refused = httpx2.post(serving.url + "/runs", json={"message": "new"}, timeout=WAIT_S, trust_env=False)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    serving.process.send_signal(signal.SIGTERM)  # a supervisor may say it again
    with httpx2.stream("GET", f"{serving.url}/runs/{run_id}/events?wire=text", timeout=WAIT_S, trust_env=False) as late:
        Path(agents).with_name("go").touch()
        late.read()
    return late


async def test_sigterm_closes_a_run_that_does_not_end_in_bounded_time(
    server: Callable[..., Any], agents: str, run: Any
) -> None:
    serving = server(f"{agents}:endless", "--port", "0", "--store", "sqlite:///gapless.db", "--drain", "0.2")
    async with GaplessClient(serving.url) as client:
        started = await client.start("hi")
        async for _, event in client.follow(started.id):
            if isinstance(event, TextMessageContentEvent):
                break
    assert await asyncio.to_thread(serving.stop) == 0
    followed = run("follow", started.id, "--store", "sqlite:///gapless.db")
    assert followed.stdout.startswith("tick0 tick1 ")
    assert "the worker stopped before the run had finished; ask again" in followed.stderr


def test_debug_logs_name_runs_and_requests_and_never_what_was_said(server: Callable[..., Any], agents: str) -> None:
    serving = server(f"{agents}:raises", "--port", "0", "--store", "memory://", "--log-level", "debug")
    answer = answers(serving.url + "/chat/stream", params={"query": "a secret question"})
    run_id = answer.headers["x-run-id"]
    assert serving.stop() == 0
    log = serving.log.read_text()
    assert f" error gapless.run run={run_id} agent raises raised ValueError at " in log
    assert "GET /chat/stream HTTP" in log
    assert "secret" not in log
    assert "so far" not in log

    assert "Traceback" in log
    assert "agents.py" in log.partition("Traceback")[2]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_logs_for_machines(server: Callable[..., Any], agents: str, workers: str) -> None:
    arguments = (
        "--store",
        "sqlite:///gapless.db",
        "--workers",
        workers,
        "--log-level",
        "debug",
        "--log-format",
        "json",
    )
    serving = server(f"{agents}:raises", "--port", "0", *arguments)
    run_id = answers(serving.url + "/chat/stream", params={"query": "a secret question"}).headers["x-run-id"]
    assert serving.stop() == 0
    lines = [json.loads(line) for line in serving.log.read_text().splitlines()]
    failed, trace, ended = [line for line in lines if line.get("run") == run_id]
    assert (failed["level"], failed["logger"]) == ("error", "gapless.run")
    assert failed["message"].startswith("agent raises raised ValueError at ")
    assert trace["exception"].startswith("Traceback")
    assert ended["message"].startswith("agent_failed after 5 events; agent 'raises', user 'anonymous', ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ended["time"])


async def test_several_processes_serve_one_store(server: Callable[..., Any], agents: str) -> None:
    serving = server(f"{agents}:words", "--port", "0", "--workers", "2", "--store", "sqlite:///gapless.db")
    assert serving.banner["agents"] == "words"

    async def ask() -> str:
        async with GaplessClient(serving.url) as client:
            run = await client.start("hi")
        pieces = []
        async with GaplessClient(serving.url) as client:  # a connection of its own: any of the processes may answer
            async for _, event in client.follow(run.id):
                if isinstance(event, TextMessageContentEvent):
                    pieces.append(event.delta)
        return "".join(pieces)

    texts = await asyncio.gather(*(ask() for _ in range(20)))
    assert set(texts) == {"".join(f"word{number} " for number in range(12))}
    children = _children(serving.process.pid)
    assert len(children) == 2
    assert await asyncio.to_thread(serving.stop) == 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _children(pid: int) -> list[str]:
    """Its worker processes (multiprocessing's own helper ends a moment later)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [child for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "gapless.sock"


def over(path: Path) -> httpx2.Client:
    return httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://localhost", timeout=WAIT_S)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_listens_on_a_unix_socket(server: Callable[..., Any], agents: str, socket_path: Path, workers: str) -> None:
    store = f"sqlite:///{socket_path.with_name('gapless.db')}"
    arguments = (f"{agents}:words", "--uds", socket_path.name, "--workers", workers, "--store", store)
    serving = server(*arguments)
    assert serving.banner["socket"] == f"unix:{socket_path}"
    with over(socket_path) as client:
        answer = client.post("/runs", json={"message": "hi"}, headers={"accept": "text/event-stream"})
        assert b"event: end" in answer.content
        assert client.get("/health", headers={"host": "rebound.example"}).status_code == 403
    assert serving.stop() == 0
    assert not socket_path.exists()


def test_a_unix_socket_that_a_killed_server_has_left_is_taken_and_one_in_use_is_not(
    server: Callable[..., Any], run: Any, agents: str, socket_path: Path
) -> None:
    arguments = (f"{agents}:words", "--uds", str(socket_path), "--store", "memory://")
    killed = server(*arguments)
    killed.process.kill()
    killed.process.wait()
    assert socket_path.is_socket()
    server(*arguments)
    refused = run("serve", *arguments)
    assert (refused.returncode, refused.stderr) == (
        1,
        f"Error: --uds {socket_path}: a server listens there; choose another path\n",
    )
    with over(socket_path) as client:
        assert client.get("/health").status_code == 200


def test_a_unix_socket_that_another_server_has_taken_stays(
    server: Callable[..., Any], agents: str, socket_path: Path
) -> None:
    arguments = (f"{agents}:words", "--uds", str(socket_path), "--store", "memory://")
    first = server(*arguments)
    socket_path.unlink()
    server(*arguments)
    assert first.stop() == 0
    with over(socket_path) as client:
        assert client.get("/health").status_code == 200


def test_a_file_is_no_unix_socket(run: Any, agents: str, socket_path: Path) -> None:
    socket_path.write_text("mine")
    refused = run("serve", f"{agents}:words", "--uds", str(socket_path), "--store", "memory://")
    assert "it is a file; choose another path" in refused.stderr
    assert socket_path.read_text() == "mine"


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_replacement_that_does_not_start_or_does_is_told_in_the_logs_format(
    server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setattr(preloaded, "Popen", subprocess.Popen)  # its successors are started afresh, so it is too
    code, good = tmp_path / "mine.py", "async def agent(message):\n    yield 'all'\n"
    code.write_text(good)
    store = tmp_path / "gapless.db"
    more = ("--workers", workers, "--store", f"sqlite:///{store}", "--log-format", "json")
    serving = server(f"{code}:agent", "--port", "0", *more)
    await until(lambda: answers(serving.url + "/ready").status_code == 200, "it serves")

    def all_serve() -> bool:
        with contextlib.closing(sqlite3.connect(store)) as db:
            (count,) = db.execute("SELECT count(*) FROM workers").fetchone()
        return bool(count == int(workers))

    def said() -> list[str]:
        return [json.loads(line)["message"] for line in serving.log.read_text().splitlines()]

    await until(all_serve, "each process has read the code as it was")
    code.write_text(good + "syntax error here\n")
    serving.process.send_signal(signal.SIGHUP)
    await until(lambda: any("ended with exit code 1" in one for one in said()), "the new process is given up")
    (why,) = [one for one in said() if "SyntaxError" in one]
    assert why.startswith(f"this process does not start: agent file {code} does not import: SyntaxError")
    assert why.endswith("; --log-level debug shows the traceback")
    assert said()[-1].endswith("this one goes on" if workers == "1" else "0 of 2 are replaced")
    assert answers(serving.url + "/ready").status_code == 200, "what serves goes on"
    code.write_text(good)
    serving.process.send_signal(signal.SIGHUP)
    end = "serves in this one's place" if workers == "1" else "all 2 processes are replaced"
    await until(lambda: said()[-1].endswith(end), "it is replaced")
    assert serving.stop() == 0


@pytest.mark.parametrize("output", ["nobody reads", "full"])
def test_a_banner_that_nobody_takes_does_not_end_the_server(
    environment: dict[str, str], agents: str, tmp_path: Path, output: str
) -> None:
    out = os.open("/dev/full", os.O_WRONLY)
    if output == "nobody reads":
        os.close(out)
        reader, out = os.pipe()
        os.close(reader)
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = preloaded.Popen(
            [*COMMAND, "serve", f"{agents}:words", "--port", "0", "--store", "memory://"],
            stdout=out,
            stderr=errors,
            env=environment,
            cwd=tmp_path,
        )
    os.close(out)
    try:
        deadline = time.monotonic() + WAIT_S
        while (found := re.search(r"takes nothing .* goes on, at (http\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answers(found[1] + "/health").json() == {"status": "ok"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
