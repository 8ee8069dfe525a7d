"""A server of one process that is replaced on SIGHUP: by another process on its socket, with the code as it is then,
which the first one watches from there on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.supervisors.multiprocess import Process

from gapless.cli.listen import Terminal
from gapless.cli.workers import Replacing, failed_start, watch

__all__ = ["run_one"]

log = logging.getLogger("gapless.serve")


def run_one(
    config: uvicorn.Config, successors: uvicorn.Config, listener: socket.socket, replacing: Replacing, *, shared: bool
) -> None:
    """Serve in this process until it is told to end, or is replaced, and then for as long as its successors serve.

    `successors` are their settings. `shared` says that another process can go on with what this one's store has; where
    it is not, nothing is replaced. `replacing` tells the app why it stops."""
    server = _Server(config, successors, listener.dup(), replacing, shared=shared)
    try:
        server.run(sockets=[listener])
    except BaseException:
        server.successor = None
        raise
    finally:
        server.left()
    if server.successor is not None:
        log.info("process %s serves in this one's place", server.successor.pid)
        watch(server.successor, successors, server.listener, replacing, server.told)


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        successors: uvicorn.Config,
        listener: socket.socket,
        replacing: Replacing,
        *,
        shared: bool,
    ) -> None:
        super().__init__(config)
        self.listener = listener
        """The socket once more: the server closes its own when it ends."""
        self.successor: Process | None = None
        """Serves already, while this process lets its runs go."""
        self.told: list[int] = []
        """The signals that came since it was to be replaced; those are for the successor."""
        self._successors = successors
        self._replacing = replacing
        self._shared = shared
        self._terminal = Terminal()
        self._ends = threading.Event()
        self._starting: threading.Thread | None = None
        self._process: Process | None = None
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        # Where it is ignored (nohup), it stays so.
        if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._at_sighup)

    def _at_sighup(self, number: int, frame: FrameType | None) -> None:
        if self._terminal.is_closed:
            signal.raise_signal(signal.SIGTERM)
        elif not self._shared:
            log.warning("SIGHUP: a store in memory ends with its process, so nothing is replaced; restart the server")
        elif self.successor is not None or self._starting is not None:  # what starts may have read the code before
            self.told.append(number)
        elif not self.should_exit:
            self._hear()
            self._starting = threading.Thread(target=self._start_successor, name="gapless-successor", daemon=True)
            self._starting.start()

    def _hear(self) -> None:
        """Take note of the signals that end the server, in front of what handles them."""
        if self._handlers:
            return

        def tell(number: int, frame: FrameType | None) -> None:
            self.told.append(number)
            self._ends.set()
            if self.successor is None or len(self.told) > 1:  # it is stopping already
                self._handlers[number](number, frame)

        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.signal(number, tell)
            assert callable(handler), "the app's, or this server's own"
            self._handlers[number] = handler

    def _start_successor(self) -> None:
        """Start another process on the socket, and leave when it serves; go on if it does not come to that."""
        assert self._loop is not None, "it serves"
        log.info("SIGHUP: another process takes over")
        self._process = process = Process(self._successors, [self.listener])
        process.start()
        if process.wait_until_ready(self._successors.timeout_worker_healthcheck, self._ends):
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._leave)
            return
        why = failed_start(process, self._successors.timeout_worker_healthcheck)
        self._process = self._starting = None
        if not self._ends.is_set():
            log.error("SIGHUP: %s; this one goes on", why)
            if signal.SIGHUP in self.told:  # the code has changed once more meanwhile
                self.told.remove(signal.SIGHUP)
                os.kill(os.getpid(), signal.SIGHUP)

    def _leave(self) -> None:
        """Stop as at SIGTERM, unless that has come; the process does not end with it."""
        if self._ends.is_set():
            return
        self.successor = self._process
        self._replacing.say(True)
        self._handlers[signal.SIGTERM](signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.successor is None:
            super().handle_exit(sig, frame)
        elif self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        else:
            self.should_exit = True

    def left(self) -> None:
        """See that no process is left behind that nobody watches."""
        self._ends.set()
        if (starting := self._starting) is not None:
            starting.join()
        if self._process is not None and self.successor is None:
            self._process.terminate()
            self._process.join()
        self._replacing.say(False)
