"""What tests cost in processor time, theirs and that of the processes they started, whatever else the machine does.

`scripts/test PATHS… --cpu 30` lists the dearest thirty tests, and all files. A shared server is counted where it ends,
at the last test that uses it.
"""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from collections.abc import Generator
from typing import Any, NamedTuple

import pytest


class Cost(NamedTuple):
    wall_s: float = 0.0
    own_s: float = 0.0
    """Processor seconds of the tests' process."""
    others_s: float = 0.0
    """Processor seconds of the processes that it started and waited for, and theirs."""

    @property
    def cpu_s(self) -> float:
        return self.own_s + self.others_s

    @property
    def idle_s(self) -> float:
        """How long nothing of it had a processor; on a machine with other work, that is not its own doing."""
        return max(0.0, self.wall_s - self.cpu_s)

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]  # costs are added up, not joined
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{self.cpu_s:8.2f} {self.own_s:8.2f} {self.others_s:8.2f} {self.idle_s:8.2f}"


class CpuCosts:
    """Measures each test, also in forks of this process, and says at the end what was dear."""

    def __init__(self, shown: int) -> None:
        self._shown = shown
        self._before = _used()
        self._tests: defaultdict[str, Cost] = defaultdict(Cost)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.pytest_collection_finish)

    def pytest_collection_finish(self) -> None:
        self._before = _used()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report = yield
        now = _used()
        report.cost = (call.duration, *(a - b for a, b in zip(now, self._before, strict=True)))
        self._before = now
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._tests[report.nodeid] += Cost(*report.cost)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files: defaultdict[str, Cost] = defaultdict(Cost)
        for name, cost in self._tests.items():
            files[name.partition("::")[0]] += cost
        total = sum(files.values(), Cost())
        for title, costs, shown in (("tests", self._tests, self._shown), ("files", files, len(files))):
            terminalreporter.section(f"processor seconds of {title}: all, own, others'; waited")
            for name, cost in sorted(costs.items(), key=lambda each: -each[1].cpu_s)[:shown]:
                terminalreporter.write_line(f"{cost} {name}")
        terminalreporter.write_line(f"{total} all")


def _used() -> tuple[float, float]:
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, others.ru_utime + others.ru_stime
