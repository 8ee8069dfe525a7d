"""The processes of `gapless serve --workers N`: uvicorn's supervisor starts, watches and replaces them."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from gapless.errors import GaplessError
from gapless.metrics import FOLDER_VARIABLE

__all__ = ["run_workers"]


def run_workers(config: uvicorn.Config, listener: socket.socket) -> None:
    """Until it is told to end. Raises `GaplessError` when the workers do not start."""
    with contextlib.ExitStack() as stack:
        if FOLDER_VARIABLE not in os.environ:  # it is inherited: the workers add up what they count there
            folder = tempfile.TemporaryDirectory(prefix="gapless-metrics-", ignore_cleanup_errors=True)
            os.environ[FOLDER_VARIABLE] = stack.enter_context(folder)
            stack.callback(os.environ.pop, FOLDER_VARIABLE)
        supervisor = _Supervisor(config, sockets=[listener])
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise GaplessError("a worker process did not start; the lines above say why")


class _Supervisor(Multiprocess):
    """Drops what workers that are gone said of the present: their open runs and followers."""

    _known: frozenset[int | None] = frozenset()

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        present = frozenset(process.pid for process in self.processes)
        for pid in self._known - present:
            _forget(pid)
        self._known = present


def _forget(pid: int | None) -> None:
    with contextlib.suppress(ModuleNotFoundError):  # without the extra nothing is counted together
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid, os.environ[FOLDER_VARIABLE])  # type: ignore[no-untyped-call]  # left untyped
