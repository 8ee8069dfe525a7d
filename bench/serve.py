"""One candidate's server process: `python -m bench.serve MODULE key=value…`.

It prints its port, and ends with its parent.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import signal
import socket
import sys

import uvicorn

BACKLOG = 8192
PR_SET_PDEATHSIG = 1


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    module, *pairs = sys.argv[1:]
    options = dict(pair.split("=", 1) for pair in pairs)
    app = importlib.import_module(f"bench.servers.{module}").build(options)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=120,
    )
    server = uvicorn.Server(config)

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        print(listener.getsockname()[1], flush=True)

    async def run() -> None:
        waiter = asyncio.create_task(announce())
        await server.serve(sockets=[listener])
        waiter.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
