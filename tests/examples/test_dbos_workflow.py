"""A run whose workflow is killed is finished by DBOS's recovery: real DBOS on SQLite."""

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
from tests.support import preloaded
from tests.support.waiting import HANG_S

dbos = pytest.importorskip("dbos", reason="it is not installed: scripts/test brings it")

EXAMPLE = Path(__file__).parents[2] / "examples" / "dbos_workflow.py"
ROWS = 20
UNHEARD, UNTAKEN = 6, 12
"""Requests with which a worker is killed: of the first its batch is taken and the answer unheard, of the other not."""


class Popen(preloaded.Popen):
    preload = ("dbos",)  # it takes longer to import than the project


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[Popen]:
    process = Popen([sys.executable, EXAMPLE], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_a_workflow_that_is_killed_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    victims: list[int] = []
    asked: list[str] = []

    async def killing(scope: Any, receive: Any, send: Any) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST"
        if posted:
            asked.append(scope["path"])
        if posted and len(asked) == UNTAKEN:
            os.kill(victims[-1], signal.SIGKILL)
            return
        unheard = posted and len(asked) == UNHEARD

        async def sending(message: Any) -> None:
            if unheard and message["type"] == "http.response.start":
                os.kill(victims[-1], signal.SIGKILL)
            await send(message)

        await example.app(scope, receive, sending)

    monkeypatch.setenv("DBOS_URL", f"sqlite:///{tmp_path / 'workflows.db'}")
    dbos.run_dbos_database_migrations(system_database_url=os.environ["DBOS_URL"])
    example = importlib.import_module("dbos_workflow")
    with serving(killing) as url, httpx2.Client(base_url=url, timeout=HANG_S, trust_env=False) as http:
        environment = {**os.environ, "GAPLESS_URL": url}
        with http.stream("GET", f"/report?rows={ROWS}") as told:
            for deaths in range(3):
                with worker(environment) as process:
                    victims.append(process.pid)
                    if deaths < 2:
                        assert process.wait(HANG_S) == -signal.SIGKILL
                        assert [run["status"] for run in http.get("/runs").json()["runs"]] == ["running"]
                    else:
                        text = "".join(told.iter_text())
        assert [run["status"] for run in http.get("/runs").json()["runs"]] == ["finished"]
    assert text == "".join(f"Row {number} is {number * number}. " for number in range(1, ROWS + 1))
    # Three began, and nothing was written again but what was not taken: each row and the end.
    assert len(asked) == 3 + ROWS + 1 + 1
