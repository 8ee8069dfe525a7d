"""A doorbell for each process that has an SQLite file open: who commits rings those whom it concerns.

A bell is a datagram socket in a folder beside the file, which is where all find it who share the file, in containers
too. What is rung says nothing: whoever hears it looks into the file. So a ring that is lost, or one too many, costs
time and never an event. Who may write the file may ring and nobody else: the folder and what is in it have its
permissions to write. Where there can be no such socket, others' commits are looked for instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Bell"]

FOLDER_SUFFIX = "-bells"
"""Of the folder's name, behind the file's."""
RINGS_AT_ONCE = 32
"""Rings that are taken together as one; the kernel keeps no more than some ten for a socket."""
STALE_S = 10.0
"""A socket that refuses is that of a process that is gone. One that has just been made may be about to be bound."""
MAKING_ATTEMPTS = 3
"""The last one who leaves removes the folder, also one that somebody has just made."""

log = logging.getLogger("gapless.sqlite")


class Bell:
    """This process's bell at a file, and the way to those of the others."""

    def __init__(self, path: Path) -> None:
        self._file = path
        self.name = ""
        """Of the socket in the folder; "" where there is no bell."""
        self._folder = -1
        self._addresses = ""
        """Where all bells are, as an address of a socket begins: the open folder, as its path may be too long."""
        self._socket: socket.socket | None = None

    def open(self, on_ring: Callable[[], None]) -> None:
        """Hang the bell up, if that is possible here; whoever rings it has `on_ring` called, on the event loop."""
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._bind(self._socket)
            asyncio.get_running_loop().add_reader(self._socket, self._hear, self._socket, on_ring)
        except (OSError, AttributeError, NotImplementedError) as error:  # no such sockets in this system or folder
            log.info("store %s: no doorbell, others' commits are looked for: %s", self._file, error)
            self.close()

    def _bind(self, bell: socket.socket) -> None:
        for attempt in range(MAKING_ATTEMPTS):
            name = secrets.token_hex(8)
            try:
                self._open_folder()
                bell.bind(f"{self._addresses}/{name}")
                os.chmod(name, self._mode(0o600), dir_fd=self._folder)
                self.name = name
                return
            except FileNotFoundError:
                if attempt + 1 == MAKING_ATTEMPTS:
                    raise

    def _open_folder(self) -> None:
        file = self._file.resolve()
        folder, owner = file.with_name(file.name + FOLDER_SUFFIX), file.stat()
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            with contextlib.suppress(OSError):  # of a file of another group than this process's, as SQLite does it
                os.chown(folder, owner.st_uid if os.geteuid() == 0 else -1, owner.st_gid)
            folder.chmod(self._mode(0o700))
        self._close_folder()
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        if os.fstat(self._folder).st_uid not in (owner.st_uid, os.geteuid()):
            raise PermissionError(f"{folder} is another user's")
        opened = f"/proc/self/fd/{self._folder}"
        self._addresses = opened if os.path.exists(opened) else str(folder)  # too long a path is an OSError

    def _mode(self, all_of_it: int) -> int:
        """Give `all_of_it`, as the owner has it, to those who may write the file."""
        writes = self._file.stat().st_mode & 0o222
        return sum(all_of_it >> shift for shift in (0, 3, 6) if writes & (0o200 >> shift))

    def _hear(self, bell: socket.socket, on_ring: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            for _ in range(RINGS_AT_ONCE):
                bell.recv(1)
        on_ring()

    def ring(self, names: Iterable[str]) -> list[str]:
        """Ring these bells; gives those that cannot be rung from here."""
        return [name for name in names if not self._ring(name)]

    def ring_all(self) -> None:
        """Ring every bell of the folder, and remove those of processes that are gone."""
        if self._folder < 0:
            return
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder):
                if name != self.name and not self._ring(name):
                    with contextlib.suppress(OSError):  # somebody else removes it too
                        if os.stat(name, dir_fd=self._folder).st_mtime < time.time() - STALE_S:
                            os.unlink(name, dir_fd=self._folder)

    def _ring(self, name: str) -> bool:
        if self._socket is None or self._folder < 0:
            return False
        try:
            self._socket.sendto(b"!", f"{self._addresses}/{name}")
        except BlockingIOError:
            return True  # it has been rung so often that it has to look anyway
        except OSError:
            return False
        return True

    def silence(self) -> None:
        """Hear nothing any more, and leave the bell where it is, as a process that is killed does."""
        bell, self._socket = self._socket, None
        if bell is not None:
            with contextlib.suppress(RuntimeError, NotImplementedError):  # the loop may be closed
                asyncio.get_running_loop().remove_reader(bell)
            bell.close()
        self._close_folder()

    def close(self) -> None:
        """Take the bell down, and the folder with the last one. Idempotent."""
        if self.name and self._folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=self._folder)
            with contextlib.suppress(OSError):  # others' are in it
                file = self._file.resolve()
                file.with_name(file.name + FOLDER_SUFFIX).rmdir()
        self.name = ""
        self.silence()

    def _close_folder(self) -> None:
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)
