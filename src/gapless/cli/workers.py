"""The processes of `gapless serve` where they are several, or successors of the first: uvicorn's supervisor starts,
watches and replaces them."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import multiprocessing.process
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from gapless.cli.listen import Terminal
from gapless.errors import GaplessError
from gapless.metrics import FOLDER_VARIABLE

__all__ = ["Replacing", "end_with", "failed_start", "run_workers", "watch"]

FOLDER_PREFIX = "gapless-metrics-"

log = logging.getLogger("gapless.serve")


class Replacing:
    """Tells the workers whether one that is told to stop is being replaced; else all of them stop. A byte that they
    share."""

    def __init__(self) -> None:
        self._byte = multiprocessing.get_context("spawn").RawValue(ctypes.c_bool, False)

    def __call__(self) -> bool:
        return bool(self._byte.value)

    def say(self, replaced: bool) -> None:
        """Say so from now on, or no more."""
        self._byte.value = replaced

    @contextlib.contextmanager
    def said(self) -> Iterator[None]:
        """Say so for as long."""
        self.say(True)
        try:
            yield
        finally:
            self.say(False)


def run_workers(config: uvicorn.Config, listener: socket.socket, replacing: Replacing) -> None:
    """Serve until it is told to end. Raises `GaplessError` when the workers do not start."""
    with contextlib.ExitStack() as stack:
        if FOLDER_VARIABLE not in os.environ:  # it is inherited: the workers add up what they count there
            folder = tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True)
            os.environ[FOLDER_VARIABLE] = stack.enter_context(folder)
            stack.callback(os.environ.pop, FOLDER_VARIABLE)
        supervisor = _Supervisor(config, [listener], replacing)
        supervisor.run()
    _check_started(supervisor)


def watch(
    process: Process, config: uvicorn.Config, listener: socket.socket, replacing: Replacing, told: list[int]
) -> None:
    """Watch a worker that serves already, as those of `run_workers`. `told` are the signals that have come for it."""
    try:
        supervisor = _Supervisor(config, [listener], replacing)
        supervisor.processes = [process]
        supervisor.signal_queue.extend(told)
        supervisor.run()
    except BaseException:
        process.terminate()
        raise
    _check_started(supervisor)


def _check_started(supervisor: Multiprocess) -> None:
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise GaplessError("a worker process did not start; the lines above say why")


def end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """In a worker: wait for the end of the process that started it, which nobody else tells it when that was killed,
    tidy up in its place, and end this one in order. It would keep the port."""
    parent.join()
    folder = Path(os.environ.get(FOLDER_VARIABLE, ""))
    if folder.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


def failed_start(process: Process, patience_s: float) -> str:
    """End a process that was waited for and does not serve, and return why that is, in words."""
    process.process.join(0)  # to know its exit code
    code = process.exitcode
    process.kill()
    process.join()
    if code is None:
        return f"the new process {process.pid} did not serve within {patience_s:g} s and was killed"
    return f"the new process {process.pid} {_ended(code)}, the lines above say why"


def _ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by signal {-code} ({signal.strsignal(-code)})"


class _Supervisor(Multiprocess):
    """Drops what workers that are gone said of the present: their open runs and followers."""

    _known: frozenset[int | None] = frozenset()

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], replacing: Replacing) -> None:
        super().__init__(config, sockets)
        self._replacing = replacing
        self._terminal = Terminal()

    def init_processes(self) -> None:
        if not self.processes:
            super().init_processes()

    def handle_hup(self) -> None:
        if self._terminal.is_closed:
            self.should_exit.set()
        else:
            super().handle_hup()

    def restart_all(self) -> None:
        """Put a new process in the place of each, one after another; where one does not come to serve, the others
        stay. uvicorn's own says of all that fail that they were not ready in time, and of those that do not nothing."""
        log.info("SIGHUP: other processes take over, one after another")
        with self._replacing.said():
            for index, old in enumerate(self.processes):
                new = Process(self.config, self.sockets)
                new.start()
                if not new.wait_until_ready(self.config.timeout_worker_healthcheck, self.should_exit):
                    why = failed_start(new, self.config.timeout_worker_healthcheck)
                    log.error("SIGHUP: %s; %s of %s are replaced", why, index, len(self.processes))
                    return
                old.terminate()
                old.join()
                self.processes[index] = new
        log.info("SIGHUP: all %s processes are replaced", len(self.processes))

    def handle_ttou(self) -> None:
        with self._replacing.said():  # the others do its work
            super().handle_ttou()

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            # The worker's end of its pipe, which is open here too. While it is, a worker that dies when it is asked
            # whether it is well looks like one that is slow to answer: 30 s, and no worker is replaced meanwhile.
            process.child_conn.close()
        known = self._known | self._pids()  # a restart may have brought new ones since the last look
        before, since = list(self.processes), time.monotonic()
        super().keep_subprocess_alive()
        silent_s = time.monotonic() - since
        for process in before:
            if process not in self.processes:
                log.warning("worker process %s %s; another takes its place", process.pid, self._end(process, silent_s))
        self._known = self._pids()
        for pid in known - self._known:
            _forget(pid)

    def _end(self, process: Process, silent_s: float) -> str:
        """How a worker that was not told to stop came to its end, in words: uvicorn says only that it did, at info."""
        if process.exitcode == -signal.SIGKILL and silent_s >= self.config.timeout_worker_healthcheck:
            return f"did not answer for {self.config.timeout_worker_healthcheck} s and was killed"
        return _ended(process.exitcode)

    def _pids(self) -> frozenset[int | None]:
        return frozenset(process.pid for process in self.processes)


def _forget(pid: int | None) -> None:
    if FOLDER_VARIABLE not in os.environ:
        return  # one that took over from a server of one process: each counts by itself
    with contextlib.suppress(ModuleNotFoundError):  # without the extra nothing is counted together
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, os.environ[FOLDER_VARIABLE])  # type: ignore[no-untyped-call]  # left untyped
