"""Python processes that begin at once: forks of one that has imported the project, which takes a second of processor
time. Hundreds of servers and commands start in the tests.

`Popen` and `run` are `subprocess`'s own for a command that begins with `sys.executable`. What they start is a child of
the tests' process like any other: signals, exit codes, pipes and terminals are the real ones. What was imported is not:
what is to be seen of imports is seen in a process of `subprocess`. Elsewhere than on Linux that is what all are.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

FRAMEWORKS = (
    "genai_prices.data",  # by Pydantic AI, with its first model
    "pydantic_ai",
    "pydantic_ai.models.function",
    "gapless.agents.pydantic_ai",
    "google.adk.agents.llm_agent",
    "google.adk.apps.compaction",
    "google.adk.flows.llm_flows.auto_flow",
    "google.adk.runners",
    "google.adk.tools",
    "gapless.agents.adk",
)
ALL_FRAMEWORKS = (
    *FRAMEWORKS,
    "langchain.agents.middleware",
    "gapless.agents.langgraph",
    "gapless.agents.openai_agents",
)

if sys.platform != "linux":
    from subprocess import Popen, run

    PopenWithFrameworks = PopenWithAllFrameworks = Popen
else:
    PR_SET_CHILD_SUBREAPER = 36
    REQUEST_BYTES_MAX = 1 << 20

    _lock = threading.Lock()
    _nurseries: dict[tuple[str, ...], socket.socket] = {}

    class Popen(subprocess.Popen[Any]):
        """`start_new_session` gives it the terminal on its standard input, if it is one."""

        preload: tuple[str, ...] = ()
        """What its nursery has imported beside the project."""

        def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, *more: Any) -> None:
            pass_fds, cwd, env, _, _, shell, *rest = more
            (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite), rest = rest[:6], rest[6:]
            python, *arguments = map(os.fspath, args)
            assert python == sys.executable, args
            assert not any((executable, preexec_fn, pass_fds, shell)), "not for this Popen"
            request = {
                "arguments": arguments,
                "cwd": os.fspath(cwd or Path.cwd()),
                "environment": {**(os.environ if env is None else env)},
                "session": bool(rest[5]),
            }
            ends = [given if given != -1 else own for given, own in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2))]
            self.pid = _born(request, ends, self.preload)
            self._child_created = True
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def run(
        command: list[Any],
        *,
        input: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        capture_output: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        if input is not None:
            options["stdin"] = subprocess.PIPE
        if capture_output:
            options["stdout"] = options["stderr"] = subprocess.PIPE
        with Popen(command, **options) as process:
            try:
                output, errors = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(command, process.returncode, output, errors)
        if check:
            done.check_returncode()
        return done

    class PopenWithFrameworks(Popen):
        """Has the agent frameworks imported, too: some seconds for the first of a test process, none for others."""

        preload = FRAMEWORKS

    class PopenWithAllFrameworks(Popen):
        """Has LangGraph and the OpenAI Agents SDK imported beside these."""

        preload = ALL_FRAMEWORKS

    def _born(request: dict[str, Any], ends: list[int], preload: tuple[str, ...]) -> int:
        """Its process id. Its parent is this process, which is made the next reaper of orphans for the moment."""
        with _lock:
            nursery = _nurseries.get(preload) or _nursery(preload)
            _reap_orphans(True)
            try:
                socket.send_fds(nursery, [json.dumps(request).encode()], ends)
                return int(nursery.recv(32))
            finally:
                _reap_orphans(False)

    def _nursery(preload: tuple[str, ...]) -> socket.socket:
        """A new one."""
        nursery, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (nursery, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES_MAX)
        command = [sys.executable, "-P", Path(__file__).with_name("nursery.py"), str(theirs.fileno()), *preload]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(process.wait)
        atexit.register(nursery.close)
        _nurseries[preload] = nursery
        return nursery

    def _reap_orphans(on: bool) -> None:
        done = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)
        assert done == 0, os.strerror(ctypes.get_errno())


__all__ = ["Popen", "PopenWithAllFrameworks", "PopenWithFrameworks", "run"]
