"""A run whose worker of a task queue is killed is finished by the next one: real dramatiq, real Valkey."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gapless.testing import serving
from tests.support.valkey import Valkey
from tests.support.waiting import HANG_S

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = 20
LAST_OF_THE_FIRST = 6
"""With which of its requests the first worker is killed: that batch is taken, and its answer unheard."""


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`dramatiq queue_worker`: its processes are one group."""
    command = [sys.executable, "-m", "dramatiq", "queue_worker", "--path", str(EXAMPLES), "-p", "1", "-t", "1"]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_worker_that_is_killed_is_followed_by_another(monkeypatch: pytest.MonkeyPatch):
    victims: list[int] = []
    asked: list[str] = []

    async def killing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            asked.append(scope["path"])
        dies = len(asked) == LAST_OF_THE_FIRST and scope.get("method") == "POST"

        async def sending(message: Any) -> None:
            if dies and message["type"] == "http.response.start":
                os.killpg(victims[0], signal.SIGKILL)
            await send(message)

        await example.app(scope, receive, sending)

    with Valkey() as valkey:
        monkeypatch.setenv("QUEUE_URL", f"redis://127.0.0.1:{valkey.port}/0")
        monkeypatch.setenv("LOST_MS", "1000")
        example = importlib.import_module("queue_worker")
        with serving(killing) as url, httpx2.Client(base_url=url, timeout=HANG_S, trust_env=False) as http:
            environment = {**os.environ, "GAPLESS_URL": url}
            with worker(environment) as first:
                victims.append(first.pid)
                with http.stream("GET", f"/report?rows={ROWS}") as told:
                    assert first.wait(HANG_S) == -signal.SIGKILL
                    assert [run["status"] for run in http.get("/runs").json()["runs"]] == ["running"]
                    with worker(environment):
                        text = "".join(told.iter_text())
            assert [run["status"] for run in http.get("/runs").json()["runs"]] == ["finished"]
    assert text == "".join(f"Row {number} is {number * number}. " for number in range(1, ROWS + 1))
    # Two began, and nothing was written again: each row and the end came once.
    assert len(asked) == 2 + ROWS + 1
