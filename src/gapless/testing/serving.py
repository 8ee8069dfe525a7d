"""A real server for a test, on a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["serving"]

START_S_MAX = 60.0
"""What the server may take to start, and to stop."""


@contextlib.contextmanager
def serving(app: Any, *, send_buffer_bytes: int | None = None, **options: Any) -> Iterator[str]:
    """Serve an ASGI `app` on a free loopback port until the block ends: `with serving(create_app(runner)) as url:`.

    `send_buffer_bytes` bounds what the kernel takes per connection before the server has to wait; other `options` are
    those of `uvicorn.Config`. Raises `RuntimeError` when it does not start or stop.
    """
    import uvicorn

    listener = socket.socket()
    if send_buffer_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listener.bind(("127.0.0.1", 0))
    options = {"log_level": "warning", "timeout_graceful_shutdown": 2, **options}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    started = threading.Event()
    startup = server.startup

    async def startup_and_tell(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = startup_and_tell  # type: ignore[method-assign]  # the one hook that uvicorn has for this

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except SystemExit:  # so uvicorn ends where the app does not start
            pass
        finally:
            started.set()  # what has not started by now never will

    thread = threading.Thread(target=run, name="gapless-serving")
    thread.start()
    try:
        if not started.wait(START_S_MAX) or not server.started:
            raise RuntimeError("the server did not start; what it logged says why")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        streams = getattr(getattr(app, "state", None), "streams", None)
        if streams is not None and server.started:
            app.state.runner.call_soon(streams.drain)
        server.should_exit = True
        thread.join(START_S_MAX)
        listener.close()
    if thread.is_alive():
        raise RuntimeError("the server did not stop")
