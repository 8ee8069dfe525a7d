"""The supervisor of `serve --workers N`, with real processes that die at the worst moment."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.supervisors import multiprocess

from gapless.cli import workers


class DyingInThePing:
    """The supervisor's end of a worker's pipe. The worker is killed once it has been asked, before it has answered."""

    def __init__(self, connection: Connection, pid: int):
        self._connection, self._pid = connection, pid
        self.answers: list[bool] = []

    def send(self, obj: object) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        os.waitpid(self._pid, os.WUNTRACED)  # it stands still, and answers nothing
        self._connection.send(obj)

    def poll(self, timeout: float) -> bool:
        os.kill(self._pid, signal.SIGKILL)
        self.answers.append(self._connection.poll(timeout))
        return self.answers[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def supervisor() -> Iterator[workers._Supervisor]:
    handlers = {number: signal.getsignal(number) for number in multiprocess.SIGNALS}
    config = uvicorn.Config(
        "fastapi:FastAPI", factory=True, workers=1, timeout_worker_healthcheck=10, log_level="error"
    )
    listener = socket.create_server(("127.0.0.1", 0))
    supervisor = workers._Supervisor(config, [listener], workers.Replacing())
    try:
        supervisor.init_processes()
        yield supervisor
    finally:
        for process in supervisor.processes:
            process.kill()
            process.join()
        listener.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_worker_that_dies_instead_of_answering_is_noticed_at_once_and_what_it_counted_is_dropped(
    supervisor: workers._Supervisor, monkeypatch: pytest.MonkeyPatch
):
    forgotten: list[int | None] = []
    monkeypatch.setattr(workers, "_forget", forgotten.append)
    (process,) = supervisor.processes
    assert process.wait_until_ready(60)
    assert process.pid is not None
    line = DyingInThePing(process.parent_conn, process.pid)
    process.parent_conn = cast("Connection", line)
    supervisor.keep_subprocess_alive()  # the first time that it looks after this one
    assert line.answers == [True], "the end of the pipe, not the end of the patience"
    assert [one.pid for one in supervisor.processes] != [process.pid]
    assert forgotten == [process.pid]
