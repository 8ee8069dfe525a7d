"""A real PgBouncer in transaction mode, Debian's `pgbouncer`, in front of a PostgreSQL."""

from __future__ import annotations

import shutil
import subprocess
import time
from types import TracebackType

import psycopg

from tests.support.postgres import START_S_MAX, USER, Postgres, a_folder, whose
from tests.support.processes import free_port

__all__ = ["PgBouncer"]

SERVERS_MAX = 12
"""Connections to PostgreSQL that all clients share."""
_SETTINGS = """
[databases]
postgres = host=127.0.0.1 port={upstream} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 500
"""


class PgBouncer:
    """Give each transaction whichever connection is free."""

    def __init__(self, server: Postgres) -> None:
        self.port = free_port()
        self._upstream = server.port
        self._folder = a_folder()

    @property
    def url(self) -> str:
        """The pooler's, and where PostgreSQL itself is for who has to listen."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres?listen=127.0.0.1:{self._upstream}"

    def __enter__(self) -> PgBouncer:
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            _SETTINGS.format(upstream=self._upstream, user=USER, port=self.port, servers=SERVERS_MAX), encoding="utf-8"
        )
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["pgbouncer", settings], stdout=log, stderr=log, **whose())
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                psycopg.connect(self.url.partition("?")[0], connect_timeout=5).close()
                return self
            except psycopg.OperationalError:
                said = (self._folder / "log").read_text(errors="replace")
                assert self._process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
