"""TLS in front of a PostgreSQL whose build has none, as a provider's proxy does it. (libpq asks for TLS in PostgreSQL's
own way first: docs, "SSL Session Encryption" in "Message Flow".)"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType

__all__ = ["Terminator"]

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
PIECE_BYTES = 64 * 1024


class Terminator:
    """Takes connections with TLS, and without, until the block ends. `certificates` has `server.crt` and `.key`."""

    def __init__(self, upstream_port: int, certificates: Path) -> None:
        self._upstream_port = upstream_port
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="test-terminator")]

    def __enter__(self) -> Terminator:
        self._threads[0].start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                self._begin(self._serve, client)

    def _begin(self, what: object, *given: socket.socket) -> None:
        assert callable(what)
        thread = threading.Thread(target=what, args=given, name="test-terminator")
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        self._sockets.append(client)
        with contextlib.suppress(OSError):  # who does not like our certificate leaves
            if client.recv(8, socket.MSG_PEEK) == SSL_REQUEST:
                client.recv(8)
                client.sendall(b"S")
                client = self._tls.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            server = socket.create_connection(("127.0.0.1", self._upstream_port))
            self._sockets.append(server)
            self._begin(_pass, client, server)
            _pass(server, client)


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            sink.sendall(piece)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
