"""Tests in several processes: forks of pytest's own, made once all tests are collected, so that what they import is
imported once and shared. Each takes a group of tests at a time (`lanes.group`), in the order of the items."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util
import os
import signal
import sys
import traceback
import warnings
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

from tests.support import lanes

__all__ = ["Forks"]


class Fork:
    """One of the processes, as the first one has it."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self.connection = connection
        self.running: pytest.Item | None = None
        self.done = False


class Forks:
    """A plugin for the process that collects. The forks run tests and tell it of them; it reports, and says what is
    next."""

    def __init__(self, count: int) -> None:
        self._count = count

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed or session.config.option.collectonly or not session.items:
            return None  # as pytest does it
        self._session = session
        self._items = session.items
        groups: dict[str, list[int]] = {}
        for number, item in enumerate(self._items):
            groups.setdefault(lanes.group(item.nodeid), []).append(number)
        self._groups = deque(groups.values())
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # the forks' are within
        forks: list[Fork] = []
        try:
            while len(forks) < min(self._count, len(groups)):
                self._fork(forks)
            self._hear(forks)
        finally:
            for fork in forks:
                if not fork.done:
                    os.kill(fork.pid, signal.SIGINT)
                os.waitpid(fork.pid, 0)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _fork(self, forks: list[Fork]) -> None:
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            theirs.close()
            forks.append(Fork(pid, ours))
            return
        code = 1
        try:
            for end in (ours, *(other.connection for other in forks)):
                end.close()  # or it would not be told when the first process is gone
            _become_quiet(self._session.config, theirs, len(forks))
            _run(self._session, theirs)
            code = 0
        except BaseException:
            with contextlib.suppress(OSError):
                theirs.send(("broken", traceback.format_exc()))
        finally:  # nothing of what the process that was forked would do at its own end
            atexit._run_exitfuncs()
            os._exit(code)

    # -- what the forks tell ------------------------------------------------------------------------------------------

    def _hear(self, forks: list[Fork]) -> None:
        while left := {fork.connection: fork for fork in forks if not fork.done}:
            for connection in wait(list(left)):
                fork = left[connection]  # type: ignore[index]  # nothing else is waited for
                try:
                    kind, *told = fork.connection.recv()
                except (EOFError, ConnectionResetError):
                    self._ended(fork)
                else:
                    getattr(self, f"_on_{kind}")(fork, *told)

    def _on_next(self, fork: Fork) -> None:
        stop = self._session.shouldfail or self._session.shouldstop or not self._groups
        fork.connection.send(None if stop else self._groups.popleft())

    def _on_running(self, fork: Fork, number: int | None) -> None:
        fork.running = None if number is None else self._items[number]

    def _on_report(self, fork: Fork, data: dict[str, Any]) -> None:
        config = self._session.config
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        config.hook.pytest_runtest_logreport(report=report)
        if report.when == "teardown":
            config.hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)

    def _on_warning(self, fork: Fork, told: tuple[str, str, str, int], nodeid: str) -> None:
        text, name, file, line = told
        message = warnings.WarningMessage(text, type(name, (Warning,), {}), file, line)
        what = {"warning_message": message, "when": "runtest", "nodeid": nodeid, "location": None}
        self._session.config.hook.pytest_warning_recorded.call_historic(kwargs=what)

    def _on_broken(self, fork: Fork, text: str) -> None:
        self._fail(fork, text)

    def _ended(self, fork: Fork) -> None:
        fork.done = True
        fork.connection.close()
        if fork.running is not None:
            self._fail(fork, "its process ended, and the rest of its group has not run")

    def _fail(self, fork: Fork, text: str) -> None:
        nodeid = "between tests" if fork.running is None else fork.running.nodeid
        fork.running = None
        place = (nodeid.partition("::")[0], None, nodeid)
        report = pytest.TestReport(nodeid, place, {}, "failed", text, "call")
        report.cost = (0.0, 0.0, 0.0)  # type: ignore[attr-defined]  # for --cpu
        self._session.config.hook.pytest_runtest_logreport(report=report)


# -- in a fork ---------------------------------------------------------------------------------------------------------


class Teller:
    """Tells the first process what happens here."""

    def __init__(self, config: pytest.Config, first: Connection) -> None:
        self._config, self._first = config, first

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._first.send(("report", data))

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str) -> None:
        if when == "runtest":  # what was before is told anew to each plugin
            told = warning_message
            self._first.send(
                ("warning", (str(told.message), told.category.__name__, told.filename, told.lineno), nodeid)
            )


def _become_quiet(config: pytest.Config, first: Connection, number: int) -> None:
    """Have files of its own, and no part in what the first process says and does at its end."""
    atexit._clear()
    atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]  # what its forks do, too
    config.pluginmanager.getplugin("terminalreporter")._tw._file = open(os.devnull, "w")  # noqa: SIM115  # to the end
    capturing = config.pluginmanager.getplugin("capturemanager")
    capturing.stop_global_capturing()
    capturing.start_global_capturing()
    capturing.suspend_global_capture()
    factory = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory.getbasetemp() / f"process-{number}"
    factory._basetemp.mkdir(mode=0o700)
    config.pluginmanager.register(Teller(config, first))


def _run(session: pytest.Session, first: Connection) -> None:
    """Run the tests of all groups that are given to it. What is the session's stays until the last of them has run."""
    try:
        while not session.shouldfail and not session.shouldstop:
            first.send(("next",))
            group: list[int] | None = first.recv()
            if group is None:
                break
            items = [session.items[number] for number in group]
            # Which group is next is not known yet: what comes after the last item is the session's, and no more.
            for number, item, nextitem in zip(group, items, [*items[1:], session], strict=True):
                first.send(("running", number))
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
                if session.shouldfail or session.shouldstop:
                    break
        first.send(("running", None))
    finally:
        session._setupstate.teardown_exact(None)
