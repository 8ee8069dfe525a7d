"""Processes of this machine: named so that any other can tell whether one is gone."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_gone", "this_process"]


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
