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
from tests.support.waiting import WAIT_S


class DyingInThePing:
    """The supervisor's end of a worker's pipe. The worker is killed once it has been asked, before it has answered."""

    def __init__(self, connection: Connection, pid: int):
        self._connection, self._pid = connection, pid
        self.answers: list[bool] = []

    def send(self, obj: object) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        os.waitpid(self._pid, os.WUNTRACED)  # it stands still, and answers nothing
        while self._connection.poll(0):  # nor was this one asked before, where its answer came late
            self._connection.recv()
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
        "fastapi:FastAPI", factory=True, workers=1, timeout_worker_healthcheck=int(WAIT_S), log_level="error"
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
    supervisor: workers._Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    forgotten: list[int | None] = []
    monkeypatch.setattr(workers, "_forget", forgotten.append)
    (process,) = supervisor.processes
    assert process.wait_until_ready(WAIT_S)
    assert process.pid is not None
    line = DyingInThePing(process.parent_conn, process.pid)
    process.parent_conn = cast("Connection", line)
    supervisor.keep_subprocess_alive()  # the first time that it looks after this one
    assert line.answers == [True], "the end of the pipe, not the end of the patience"
    assert [one.pid for one in supervisor.processes] != [process.pid]
    assert forgotten == [process.pid]
    (said,) = caplog.messages
    how = f"signal 9 ({signal.strsignal(9)})"
    assert said == f"worker process {process.pid} was ended by {how}; another takes its place"


class Gone:
    """A worker that has come to an end."""

    pid = 4711

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode


@pytest.mark.parametrize(
    ("exitcode", "silent_s", "words"),
    [
        (0, 0.1, "ended with exit code 0"),
        (1, 31, "ended with exit code 1"),
        (-11, 31, f"was ended by signal 11 ({signal.strsignal(11)})"),
        (-9, 0.1, f"was ended by signal 9 ({signal.strsignal(9)})"),
        (-9, 31, "did not answer for 30 s and was killed"),
    ],
)
def test_how_a_worker_ended_is_told(exitcode: int, silent_s: float, words: str):
    supervisor = object.__new__(workers._Supervisor)  # nothing of it runs
    supervisor.config = uvicorn.Config("none:none", timeout_worker_healthcheck=30)
    assert supervisor._end(cast("Any", Gone(exitcode)), silent_s) == words


class NotServing(Gone):
    """A new process that was waited for in vain."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.process, self.ended = self, 0

    def join(self, timeout: float | None = None) -> None:
        pass

    def kill(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (None, "the new process 4711 did not serve within 30 s and was killed"),
        (1, "the new process 4711 ended with exit code 1, the lines above say why"),
    ],
)
def test_why_a_new_process_does_not_serve_is_told(exitcode: int | None, words: str):
    process = NotServing(exitcode)
    assert workers.failed_start(cast("Any", process), 30) == words
    assert process.ended == 1
