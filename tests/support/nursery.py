"""The process that those of `preloaded` are forks of: it imports what they need, and forks when it is asked to.

A fork takes over the three standard files, the folder, the environment and the arguments, and does what `python -m`,
`python -c` or `python FILE` does, as the last thing of this script: it ends as Python ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import io
import json
import multiprocessing.util
import os
import runpy
import signal
import socket
import sys
import termios
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Not prometheus_client, which decides as it is imported whether several processes count together.
PRELOADED = (
    "gapless",
    "gapless.cli",
    "gapless.cli.chat",
    "gapless.cli.demo",
    "gapless.cli.doctor",
    "gapless.cli.runs",
    "gapless.cli.serve",
    "gapless.cli.workers",
    "gapless.client",
    "gapless.journals.memory",
    "gapless.journals.postgres",
    "gapless.journals.redis",
    "gapless.journals.sqlite",
    "gapless.server",
    "gapless.testing",
    "sqlite3",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)


def forks(asked: socket.socket) -> dict[str, Any] | None:
    """What this process, a fork, is to be; None for the parent, when nobody asks any more."""
    while True:
        data, ends, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not data:
            return None
        its_pid, tells = os.pipe()
        if between := os.fork():
            os.waitpid(between, 0)  # only now the fork is the tests' own child
            asked.send(os.read(its_pid, 32))
            for end in (*ends, its_pid, tells):
                os.close(end)
        elif pid := os.fork():
            os.write(tells, str(pid).encode())
            os._exit(0)
        else:
            for number, end in enumerate(ends):
                os.dup2(end, number)
            for end in (*ends, its_pid, tells, asked.detach()):
                os.close(end)
            return dict(json.loads(data))


def become(request: dict[str, Any]) -> None:
    if request["session"]:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")  # a test's own, from that path
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for name, number, mode in (("stdin", 0, "rb"), ("stdout", 1, "wb"), ("stderr", 2, "wb")):
        raw = os.fdopen(number, mode, 0 if unbuffered and number else -1, closefd=False)
        file = io.TextIOWrapper(
            raw,
            "utf-8",
            "backslashreplace" if number == 2 else "strict",
            line_buffering=number == 2 or raw.isatty(),
            write_through=unbuffered,
        )
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    kind, *arguments = request["arguments"]
    if kind == "-m":
        sys.path.insert(0, request["cwd"])
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[1:]]
        code = compile(arguments[0], "<string>", "exec")
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        sys.argv = [kind, *arguments]
        main.__file__ = kind
        code = compile(Path(kind).read_bytes(), kind, "exec")
    exec(code, main.__dict__)


def fork_workers() -> None:
    """Let processes that multiprocessing spawns be forks too, which need not import all again."""
    spawn = multiprocessing.util.spawnv_passfds

    def spawned(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        (code,) = (one for one in args if "import" in os.fsdecode(one))
        if "spawn_main" not in os.fsdecode(code):
            return spawn(path, args, passfds)
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            return pid
        exit_code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for end in map(int, os.listdir("/proc/self/fd")):
                if end > 2 and end not in passfds:
                    with contextlib.suppress(OSError):  # that of the list itself
                        os.close(end)
            sys.argv = ["-c", "--multiprocessing-fork"]
            exec(code, {})
        except SystemExit as end:
            exit_code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:  # nothing of what the process that was forked would do at its own end
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)

    multiprocessing.util.spawnv_passfds = spawned


if __name__ == "__main__":
    for module in (*PRELOADED, *sys.argv[2:]):
        importlib.import_module(module)
    gc.freeze()
    request = forks(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        fork_workers()
        become(request)
