"""Processes of this machine: named so that any other can tell whether one is gone."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_gone", "lock_holders", "this_process"]


def this_process() -> str:
    """Name this process, told apart from any other of this machine, also after a restart: boot id, pid namespace, pid
    and start time."""
    return f"{_machine()} {os.getpid()} {_started(os.getpid())}"


def is_gone(process: str) -> bool:
    """Tell whether a process named by `this_process` is gone. True only if it certainly is: no such process now, or
    another one under its pid, in this very pid namespace, or the machine has been started anew. Where that cannot be
    told, the lease alone decides."""
    machine, pid, started = process.rsplit(" ", 2)
    here = _machine()
    if not machine or not here:
        return False
    if machine.split(" ")[0] != here.split(" ")[0]:
        return True
    return machine == here and _started(int(pid)) != started


def lock_holders(path: Path, first: int, last: int) -> list[str]:
    """Name the processes that hold a lock on one of these bytes of a file, as far as that can be told (proc(5))."""
    try:
        inode = str(path.stat().st_ino)
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    except OSError:
        return []
    pids = {
        int(pid)
        for _, _, _, _, pid, file, start, end in (lock for lock in locks if len(lock) == 8)
        if file.rpartition(":")[2] == inode and int(start) <= last and (end == "EOF" or int(end) >= first)
    }
    return [f"{_command(pid)}, process {pid}" for pid in sorted(pids)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "unknown"


def _machine() -> str:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _started(pid: int) -> str:
    """Return the process's start time in clock ticks since boot (proc(5), stat field 22); "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # killed, and its parent has not yet asked for its exit status
